"""Each rule on notebooks finds a fault planted for it, and lets a clean chapter pass.

The last part runs pytest in a process of its own, over notebooks with planted faults, to show
what the hooks in conftest.py add to nbval.
"""

import contextlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import notebook_rules as rules
from tools import record

MACHINE = {"device": "NVIDIA H200", "torch": "2.11.0+cu130", "triton": "3.6.0"}


def printed(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def drawn(**data):
    return new_output("display_data", data=data or {"image/png": "aGk="})


def raised(ename, evalue):
    return new_output("error", ename=ename, evalue=evalue, traceback=[f"{ename}: {evalue}"])


def code(source, *outputs, **metadata):
    return new_code_cell(source, outputs=list(outputs), metadata=metadata)


def note(text, **metadata):
    return new_markdown_cell(text, metadata=metadata)


FIGURE = {"image": {"alt": "Two bars, one twice as tall"},
          "figure": {"caption": "Twice the rank, twice the bytes", "name": "fig-bytes"}}


def stamp(nb):
    """Numbers the code cells and records them, as tools/record.py does."""
    for count, (_, cell) in enumerate(rules.code_cells(nb), start=1):
        cell.execution_count = count
        cell.metadata["recorded"] = {"source": rules.source_hash(cell.source), **MACHINE}
    return nb


def chapter(*extra):
    """A clean chapter of 32 cells, with `extra` cells in its middle."""
    return stamp(new_notebook(cells=[
        note("# 3. From requests to segments\n\n**Questions**: which rows share an adapter?"),
        note("## Objectives\n\n- draw the segments of a batch\n\n## Minutes\n\n35\n\n"
             "**Prerequisites**: PyTorch 2.11"),
        code("x = 6", printed("time 10.13 us\nfraction 0.5\nbytes 2,188\n")),
        code("plot();", drawn(), mystnb=FIGURE),
        code("fail()", raised("RuntimeError", "operation not permitted when capturing"),
             tags=["raises-exception"], raises="RuntimeError", raises_match="when capturing"),
        *extra,
        *[code("pass") for _ in range(24)],
        note("## Key points\n\n- A segment is a run of rows."),
        note("## Exercises\n\n```{exercise} Draw it\n:label: ex-9\nDraw 6 requests.\n```"),
        note("**The limit** One graph for each batch."),
    ]))


def found(nb, **kw):
    return {re.search(r"\[(\w+)\]", line)[1] for line in rules.check(nb, "x.ipynb", **kw)}


def test_a_clean_chapter_passes():
    assert rules.check(chapter(), "x.ipynb") == []


def change(nb, index, source):
    nb.cells[index].source = source


FAULTS = [
    ("executed", lambda nb: nb.cells[2].update(execution_count=None)),
    ("executed", lambda nb: nb.cells[2].update(execution_count=7)),
    ("strict", lambda nb: nb.cells[5].metadata.update(tags=["nbval-check-output"])),
    ("recorded", lambda nb: nb.cells[2].metadata.pop("recorded")),
    ("recorded", lambda nb: nb.cells[2].metadata["recorded"].pop("triton")),
    ("stale", lambda nb: change(nb, 2, "x = 6  # edited later")),
    ("one_machine", lambda nb: nb.cells[2].metadata["recorded"].update(device="NVIDIA B200")),
    ("one_machine", lambda nb: nb.cells[2].metadata["recorded"].update(torch="2.13.0")),
    ("one_machine", lambda nb: [cell.metadata["recorded"].update(device="CPU")
                                for _, cell in rules.code_cells(nb)]),
    ("known_tags", lambda nb: nb.cells[2].metadata.update(tags=["nbval-check-ouput"])),
    ("known_tags", lambda nb: nb.cells[2].metadata.update(tags=["nbval-skip"])),
    ("expected_failures", lambda nb: nb.cells[4].metadata.update(tags=[])),
    ("expected_failures", lambda nb: nb.cells[4].update(outputs=[])),
    ("expected_failures", lambda nb: nb.cells[4].metadata.update(raises="ValueError")),
    ("expected_failures", lambda nb: nb.cells[4].metadata.update(raises_match="out of memory")),
    ("expected_failures", lambda nb: nb.cells[4].metadata.pop("raises")),
    ("expected_failures", lambda nb: nb.cells[2].metadata.update(raises="ValueError")),
    ("short_tracebacks", lambda nb: nb.cells[4].outputs[0].update(traceback=["\x1b[31mline"])),
    ("no_warnings", lambda nb: nb.cells[2].outputs.append(printed("UserWarning", "stderr"))),
    ("no_machine_paths", lambda nb: nb.cells[2].outputs.append(printed("/root/book/x.py"))),
    ("no_machine_paths", lambda nb: nb.cells[2].outputs.append(printed("lib/site-packages/t.py"))),
    ("no_machine_paths", lambda nb: nb.cells[2].outputs.append(printed("<A at 0x7f12ab34cd56>"))),
    ("no_machine_paths", lambda nb: change(nb, 0, nb.cells[0].source + "\n\nSee `/home/me/x`.")),
    ("no_machine_paths", lambda nb: nb.cells[3].update(outputs=[
        drawn(**{"image/svg+xml": "<svg><!-- /tmp/figure --></svg>"})])),
    ("chapter_size", lambda nb: nb.cells.extend(nb.cells[-3:] * 10)),
    ("chapter_size", lambda nb: nb.cells.__delitem__(slice(6, 20))),
    ("figures", lambda nb: nb.cells[3].metadata.pop("mystnb")),
    ("figures", lambda nb: nb.cells[3].metadata["mystnb"]["image"].update(alt=" ")),
    ("figures", lambda nb: nb.cells[3].metadata["mystnb"]["figure"].pop("caption")),
    ("figures", lambda nb: nb.cells[3].metadata["mystnb"]["figure"].update(name="bytes")),
    ("figures", lambda nb: nb.cells[3].outputs.append(drawn(**{"text/plain": "<Axes>"}))),
    ("figures", lambda nb: nb.cells[3].update(outputs=[drawn(**{"text/html": "<img src='x'>"})])),
    ("figures", lambda nb: [nb.cells[5].update(outputs=[drawn()]),
                            nb.cells[5].metadata.update(mystnb=FIGURE)]),
    ("banned_words", lambda nb: change(nb, 0, nb.cells[0].source + "\n\nJust capture it.")),
    ("banned_words", lambda nb: change(nb, 0, nb.cells[0].source + "\n\nIt simply works.")),
    ("banned_words", lambda nb: change(nb, 0, nb.cells[0].source + "\n\nNow you understand it.")),
    ("banned_words", lambda nb: nb.cells[3].metadata["mystnb"]["image"].update(alt="just bars")),
    ("opening", lambda nb: change(nb, 0, "# From requests to segments")),
    ("opening", lambda nb: change(nb, 1, nb.cells[1].source.replace("Minutes\n\n35", "Time"))),
    ("opening", lambda nb: change(nb, 1, nb.cells[1].source.replace("**", ""))),
    ("closing", lambda nb: change(nb, -3, "Some points")),
    ("closing", lambda nb: nb.cells.insert(0, nb.cells.pop(-2))),
    ("closing", lambda nb: change(nb, -1, "**Next** One graph for each batch.")),
    ("measurable_objectives", lambda nb: change(
        nb, 1, nb.cells[1].source.replace("draw the", "draw the **rows**\n- know the"))),
    ("numbers_in_prose", lambda nb: change(nb, 0, nb.cells[0].source + "\n\nIt takes 77 us.")),
    ("numbers_in_prose", lambda nb: nb.cells[3].metadata["mystnb"]["figure"].update(
        caption="77 times slower")),
]


@pytest.mark.parametrize("rule, plant", FAULTS, ids=[f"{i}-{f[0]}" for i, f in enumerate(FAULTS)])
def test_a_planted_fault_is_found_by_its_rule(rule, plant):
    nb = chapter()
    plant(nb)
    assert rule in found(nb)
    assert found(nb) - {rule} <= {"executed"}, "the fault should break one rule"


def test_code_size():
    def of(*lines):
        return code("\n".join(lines))
    assert found(chapter(of(*["x = 6"] * 26))) == {"code_size"}
    assert found(chapter(of(*["x = 6"] * 25))) == set()
    for blank in ("", "    "):  # a blank line counts, and so does one that only looks blank
        assert found(chapter(of(*["x = 6"] * 24, blank, "x = 6"))) == {"code_size"}
        assert found(chapter(of(*["x = 6"] * 23, blank, "x = 6"))) == set()
    assert found(chapter(of("x = 6", *[""] * 24, "x = 6"))) == {"code_size"}
    assert found(chapter(*[of(*["x = 6"] * 9) for _ in range(28)])) == {"code_size"}
    assert found(chapter(*[of(*["x = 6", ""] * 8) for _ in range(28)])) == set()  # the median: not
    assert found(chapter(code("x = 6" + " " * 84))) == {"code_size"}
    assert found(chapter(code("x = 6" + " " * 83))) == set()


def test_every_rule_has_a_planted_fault():
    assert {rule.__name__ for rule in rules.RULES} == {rule for rule, _ in FAULTS} | {"code_size"}


def test_hash_ignores_trailing_whitespace_only():
    assert rules.source_hash("x = 1  \ny = 2\n\n") == rules.source_hash("x = 1\ny = 2")
    assert rules.source_hash("x = 1") != rules.source_hash("x =  1")


def test_stderr_is_allowed_by_its_tag():
    nb = chapter()
    nb.cells[2].outputs.append(printed("UserWarning", "stderr"))
    nb.cells[2].metadata["tags"] = ["stderr-ok"]
    assert found(nb) == set()


# -- numbers in prose: the chapter's outputs hold 10.13, 0.5 and 2,188; its code holds 6 ----------

SUPPORTED = [
    "10.13 us", "10.1us", "10 us", "a 10-us gap", "2,188 bytes", "2188 bytes", "2.188e3 bytes",
    "50% of it", "50 percent", "0.5", "6 requests", "6x", "×6", "$N = 512$ rows", "`512` rows",
    "```python\ny = 512\n```", "fp32, int32, float64, sm_90, H200, Llama-3.1-8B, v2.1",
    "the 1st, 2nd, 3rd and 14th", "PyTorch 2.11 to 2.14, and Triton 3.6", "version 12.4",
    "[the fix](https://example.org/pull/23738)", "<https://example.org/23738>", "#23738, PR 23738",
    "{numref}`fig-77` shows", "Exercise 7", "in Chapter 26", "32-bit", "3D", "<span id='77'>x</span>",
    "1. one\n2. two\n3. three", "## 7. A heading", "(target-77)=\n\ntext", "```{note}\n6 rows\n```",
    "![A plot of 6 rows](figure-77.svg)", "| a | b |\n|---|---|\n| 6 | 10.1 |", "-6 rows",
    "<!-- 77 -->", "$$\na = 77\n$$", "\\begin{align}\na = 77\n\\end{align}", "% 77", "see[^77]",
    "[link]: https://example.org 'no 77'", "https://example.org/77", "![A plot](a.svg){#fig-77}",
    "arXiv:2311.03285", "x86-64", "Python 3.11, 3.12 and 3.13", "CUDA 13 or later", "torch 2.11.0+cu130",
    "{cite}`a77` and {eq}`eq-77`", "`` `77 ``", "sglang#23738",
    "```{figure} figure-77.svg\n:width: 77px\n```", "10.1 \N{EN DASH} 10.13 us",
]
UNSUPPORTED = [
    "77 us", "10.2 us", "10.14 us", "11 us", "10.139 us", "2,189 bytes", "2,188,000",
    "51%", "1 of them", "0.51", ".7", "7x", "x7", "×7", "1e-3", "7-us gap", "rank-16", "top-8", "7e2",
    "2.11.0", "an 8B model", "```{note} Over 77 rows\n6 rows\n```", "```{note}\n77 rows\n```",
    ":::{admonition} Note\n77 rows\n:::", "````{exercise}\n```{note}\n77\n```\n````", "the year 2024",
    "## 77 requests", "it takes\n77. Then", "![A plot of 77 rows](figure.svg)", "[77 rows](x.md)",
    "| a | b |\n|---|---|\n| 77 | 10.1 |", "PyTorch 2.11 and 3.5 ms", "CUDA 13 and 77 requests",
    "costs $77 a month", "10\N{EN DASH}77", "**77**", "(77)", "77&nbsp;ms", "driver 77 ms", "Step 77 ms",
    "$$a$$ costs 77 and $b$", "with Triton 77 rows", "if a <b and 77> c", "&lt;b 77&gt;",
    "PyTorch 2.11-fold and 77%", "- one\n- two 77", "{term}`graph` of 77 nodes", "10.1.3", "\\$77 or \\$78",
    "# 77", "3.14", "10,1", "Python 77%", "the ```77``` and 78", "> 77 rows", "77.", "1.77 x",
]


@pytest.mark.parametrize("text", SUPPORTED)
def test_supported_or_no_number(text):
    assert rules.check(chapter(note(text)), "x") == []


@pytest.mark.parametrize("text", UNSUPPORTED)
def test_unsupported_number(text):
    assert found(chapter(note(text))) == {"numbers_in_prose"}


def test_cited_numbers():
    def with_cell(*args, **kw):
        return found(chapter(note(*args, **kw)))
    text = "SGLang reports 2,188.8 tokens/s (2024) {cite}`zheng`."
    assert with_cell(text, cited_numbers=["2188.8"]) == set()
    assert with_cell(text) == {"numbers_in_prose"}
    assert with_cell(text.replace("{cite}", ""), cited_numbers=["2188.8"]) == {"numbers_in_prose"}
    assert with_cell(text, cited_numbers=["2188.8", "9"]) == {"numbers_in_prose"}


def test_result_files(tmp_path):
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    (results / "gap.json").write_text(json.dumps({"runs": [{"median_us": 77.31}]}))
    named = note("The gap is 77.3 us (`benchmarks/results/gap.json`).")
    assert found(chapter(named), root=tmp_path) == set()
    assert found(chapter(note("The gap is 77.3 us.")), root=tmp_path) == {"numbers_in_prose"}
    other = note("The gap is 77.3 us (`benchmarks/results/none.json`).")
    assert found(chapter(other), root=tmp_path) == {"numbers_in_prose"}


def test_what_counts_as_evidence():
    cells = [code("y = 0x51  # 71\ns = '72'", drawn(**{"text/html": "<td style='width: 73px'>74</td>"}),
                  drawn(**{"text/plain": "tensor([75, 76])"}), printed("fp78 v79.80"),
                  drawn(**{"image/png": "aGk=", "text/plain": "<Figure 640x480>"}))]
    evidence = rules.evidence_of(new_notebook(cells=cells))
    assert all(evidence.supports(n) for n in ("81", "74", "75", "76"))
    assert not any(evidence.supports(n) for n in ("71", "72", "73", "78", "79", "80", "640", "480"))


# -- tools/record.py ------------------------------------------------------------------------------

HAS_GPU = torch.cuda.is_available()
REFUSED = {  # name -> (the cells, what the refusal says)
    "fails": ([code("1 / 0")], ["cell 0 (1 / 0): ZeroDivisionError: division by zero"]),
    "nothing": ([code("6", tags=["raises-exception"], raises="KeyError")],
                ["expected KeyError, raised nothing"]),
    "other": ([code("1 / 0", tags=["raises-exception"], raises="KeyError")],
              ["expected KeyError, raised ZeroDivisionError"]),
    "printed": ([code("import sys; print('w', file=sys.stderr)"),
                 code("import lorakit; print(lorakit.__file__)"),
                 code("import os; print(os.getcwd())")],
                ["cell 0: stderr output: ['w']", "cell 1: holds [", "cell 2: holds ["]),
    "exits": ([code("import os; os._exit(1)")], ["DeadKernelError"]),
}


def run_record(*arguments):
    run = subprocess.run([sys.executable, str(rules.ROOT / "tools" / "record.py"), *arguments],
                         capture_output=True, text=True, timeout=240)
    return run.returncode, run.stdout + run.stderr


@pytest.fixture(scope="module")
def drafts(tmp_path_factory):
    """One run over a good notebook and one for each fault: (code, text, folder, bytes before)."""
    folder = tmp_path_factory.mktemp("record")
    good = [code("print('a'); print('b', flush=True); print('c')"),
            code("raise KeyError('x')", tags=["raises-exception"], raises="KeyError"),
            code("gpu_only()", printed("old"), tags=["gpu"]), note("words"), code("6")]
    for name, cells in {"good": good, **{name: cells for name, (cells, _) in REFUSED.items()}}.items():
        nbformat.write(new_notebook(cells=cells), folder / f"{name}.ipynb")
    before = {path.stem: path.read_bytes() for path in folder.iterdir()}
    status, text = run_record("--cpu", *map(str, sorted(folder.iterdir())))
    return status, text, folder, before


def test_record_writes_stable_cells(drafts):
    _, text, folder, before = drafts
    nb = nbformat.read(folder / "good.ipynb", as_version=4)
    first, failing, gpu, _, last = nb.cells
    assert [out.text for out in first.outputs] == ["a\nb\nc\n"], text
    assert failing.outputs == [raised("KeyError", "'x'")]
    assert (gpu.outputs, gpu.execution_count, "recorded" in gpu.metadata) == ([], None, False)
    assert last.execution_count == last.outputs[0].execution_count == 3
    assert last.metadata.recorded.source == rules.source_hash("6")
    assert last.metadata.recorded.device == "CPU"
    assert [cell.id for cell in nb.cells] == [cell["id"] for cell in json.loads(before["good"])["cells"]]
    assert {"one_machine", "executed", "recorded"} <= found(nb), "the tests refuse a draft"


@pytest.mark.parametrize("name", REFUSED)
def test_record_refuses_and_leaves_the_file(drafts, name):
    status, text, folder, before = drafts
    assert status == 1
    block = re.search(rf"(?ms)^{name}\.ipynb: NOT recorded.*?(?=^\w+\.ipynb: recording|\Z)", text)
    assert block and all(message in block[0] for message in REFUSED[name][1]), text
    assert (folder / f"{name}.ipynb").read_bytes() == before[name]


def test_record_leaves_no_temporary_file(drafts):
    assert sorted(path.stem for path in drafts[2].iterdir()) == sorted(drafts[3])


@pytest.mark.skipif(HAS_GPU, reason="shows what happens without a GPU")
def test_record_needs_a_gpu(tmp_path):
    status, text = run_record(str(tmp_path / "any.ipynb"))
    assert status == 1 and len(text.splitlines()) == 1 and "no CUDA GPU" in text


# -- the hooks in conftest.py ---------------------------------------------------------------------

CELLS = {  # the cells of one notebook, in order: name -> (cell, outcome)
    "raises nothing": (code("6", tags=["raises-exception"], raises="KeyError"), "failed"),
    "raises another": (code("1 / 0", tags=["raises-exception"], raises="KeyError"), "failed"),
    "raises it": (code("raise KeyError('x')", tags=["raises-exception"], raises="KeyError"), "passed"),
    "says something else": (code("raise KeyError('x')", tags=["raises-exception"], raises="KeyError",
                                 raises_match="y"), "failed"),
    "names no type": (code("1 / 0", tags=["raises-exception"]), "failed"),
    "fails": (code("1 / 0"), "failed"),
    "never executed": (code("print('a')", tags=["nbval-check-output"]), "failed"),
    "changed": (code("print('a')", printed("b\n"), tags=["nbval-check-output"]), "failed"),
    "same": (code("print('a')", printed("a\n"), tags=["nbval-check-output"]), "passed"),
    "not compared": (code("print('a')", printed("b\n")), "passed"),
    "needs a gpu": (code("assert False", tags=["gpu"]), "failed" if HAS_GPU else "skipped"),
    "after it": (code("6"), "passed"),
}
TESTS = """
import pytest
@pytest.mark.gpu
def test_marked(): assert False
@pytest.mark.kernels
def test_kernels(): pass
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """One pytest run over notebooks with planted faults: (outcome of each test, terminal text)."""
    folder = tmp_path_factory.mktemp("hooks")
    shutil.copy(rules.ROOT / "conftest.py", folder)
    cells = stamp(new_notebook(cells=[cell for cell, _ in CELLS.values()]))
    cells.cells[list(CELLS).index("never executed")].execution_count = None
    nbformat.write(cells, folder / "cells.ipynb")
    hangs = [code("import time; time.sleep(60)"), code("6"), code("6")]
    nbformat.write(stamp(new_notebook(cells=hangs)), folder / "hangs.ipynb")
    dies = [code("import os; os._exit(1)"), code("6")]
    nbformat.write(stamp(new_notebook(cells=dies)), folder / "dies.ipynb")
    (folder / "test_marks.py").write_text(TESTS)
    xdist = ["-n", "2", "--dist", "loadfile"] if importlib.util.find_spec("xdist") else []
    run = subprocess.run([sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-cell-timeout=4",
                          "-rA", "--color=no", "-p", "no:cacheprovider", *xdist, "."],
                         cwd=folder, capture_output=True, text=True, timeout=240)
    lines = re.findall(r"(?m)^(PASSED|FAILED|ERROR|XFAIL\w*) (\S+::(?:Cell \d+|\w+))", run.stdout)
    return {node: outcome.lower() for outcome, node in lines}, run.stdout


@pytest.mark.parametrize("name", CELLS)
def test_cell_outcome(outcomes, name):
    seen, text = outcomes
    assert seen.get(f"cells.ipynb::Cell {list(CELLS).index(name)}", "skipped") == CELLS[name][1], text


def test_after_a_timeout_the_other_cells_fail(outcomes):
    seen, text = outcomes
    assert [seen.get(f"hangs.ipynb::Cell {i}") for i in range(3)] == ["failed", "error", "error"], text
    assert "Timeout of 4 seconds" in text and "a cell above timed out" in text


def test_after_the_kernel_died_the_other_cells_fail(outcomes):
    seen, text = outcomes
    assert [seen.get(f"dies.ipynb::Cell {i}") for i in range(2)] == ["failed"] * 2, text
    assert "the kernel died in this cell" in text


@pytest.mark.skipif(HAS_GPU, reason="shows what happens without a GPU")
def test_the_end_says_what_was_skipped_and_why(outcomes):
    _, text = outcomes
    assert "\nskipped 1 cell of cells.ipynb: needs a CUDA GPU\n" in text
    assert "\nskipped 1 test of test_marks.py: needs a CUDA GPU\n" in text


def load_conftest():
    spec = importlib.util.spec_from_file_location("book_conftest", rules.ROOT / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_process_on_a_gpu(monkeypatch):
    conftest = load_conftest()
    monkeypatch.setattr(conftest, "HAS_GPU", True)
    assert conftest.pytest_xdist_auto_num_workers(None) == 0
    monkeypatch.setattr(conftest, "HAS_GPU", False)
    assert conftest.pytest_xdist_auto_num_workers(None) is None


def test_a_kernel_that_does_not_start_is_tried_again():
    """Two kernels that start at the same time may choose the same port, and one of them dies."""
    from conftest import start_patiently

    for failures, expected in ((0, "kernel"), (2, "kernel"), (3, None)):
        left = [failures]

        def start(name):
            left[0] -= 1
            if left[0] >= 0:
                raise RuntimeError("Kernel died before replying to kernel_info")
            return name

        if expected:
            assert start_patiently("kernel", start=start) == expected
        else:
            with pytest.raises(RuntimeError, match="died"):
                start_patiently("kernel", start=start)


def test_recording_tries_again_too():
    class Client:  # stands for nbclient's: its kernel starts at the last try, or never
        def __init__(self, failures):
            self.failures = failures

        @contextlib.contextmanager
        def setup_kernel(self):
            self.failures -= 1
            if self.failures >= 0:
                raise RuntimeError("Kernel died before replying to kernel_info")
            yield

    with record.running_kernel(Client(2)):
        pass
    with pytest.raises(record.Refused, match="no kernel could be started: Kernel died"):
        record.running_kernel(Client(3))
