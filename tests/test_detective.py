"""The detective cases of Part III: the fixtures, the form of a page, and on a GPU that each fault is one."""

import ast
import inspect
import re

import nbformat
import pytest
import torch

from book import cases, detective
from chapter_functions import CHAPTERS, function_names, functions_of, statements
from lorakit import NO_ADAPTER, runtime, slots_to_device
from lorakit.routing import route_by_adapter

PAGES = sorted(path.stem for path in CHAPTERS.glob("3[0-9][0-9]_*.ipynb"))
OPEN = "311_garbled_cause_unknown"  # it has no culprit, so neither a fix nor a test of it
CLOSED = [page for page in PAGES if page != OPEN]
HEADINGS = ["The report", "The evidence", "Three hypotheses", "The cause", "The fix", "The regression test",
            "Who catches it", "Key points", "Exercises", "The limit"]
MOST_LINES = 40  # of a reproduction
LONGER = {"304_whoever_came_first": 42}  # with the server around its fault


def text_of(page: str) -> str:
    notebook = nbformat.read(CHAPTERS / f"{page}.ipynb", as_version=4)
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_there_are_the_cases():
    assert len(CLOSED) == 10 and OPEN in PAGES


@pytest.mark.parametrize("page", CLOSED)
def test_a_page_has_the_parts_of_a_case_in_order(page):
    assert re.findall(r"(?m)^## (.+)$", text_of(page)) == HEADINGS
    hypotheses = re.findall(r"(?m)^### Hypothesis (.): \S", text_of(page))
    assert hypotheses == ["A", "B", "C"]


@pytest.mark.parametrize("page", CLOSED)
def test_a_page_cites_where_its_case_comes_from_and_says_what_is_ours(page):
    opening, report = text_of(page).split("\n## ")[:2]
    assert "{cite}`" in opening + report
    assert re.search(r"(?i)\bdistil", opening + report)
    assert re.search(r"(?m)^> ", report), "the report is a quotation in our own words"


@pytest.mark.parametrize("page", CLOSED)
def test_a_page_defines_what_is_tested(page):
    defined = function_names(page) | {node.name for _, node in statements(page) if hasattr(node, "name")}
    assert {"Broken", "Fixed", "regression_test"} <= defined


@pytest.mark.parametrize("page", CLOSED)
def test_a_reproduction_is_short(page):
    """`Broken`, and what it derives from on its page."""
    classes = {node.name: (text, node) for text, node in statements(page) if isinstance(node, ast.ClassDef)}
    names, lines = ["Broken"], 0
    for name in names:
        text, node = classes[name]
        lines += len([line for line in text.splitlines() if line.strip()])
        names += [base.id for base in node.bases if getattr(base, "id", "") in classes]
    assert lines <= LONGER.get(page, MOST_LINES)


def run_regression_test(page: str, name: str) -> None:
    """A page's own test, given what its parameter is called: a made `server`, or the class `Server`."""
    functions = functions_of(page)
    test, subject = functions["regression_test"], functions[name]
    parameter, = inspect.signature(test).parameters
    assert parameter in ("server", "Server")
    test(subject() if parameter == "server" else subject)


@pytest.mark.gpu
@pytest.mark.parametrize("page", CLOSED)
def test_the_regression_test_is_red_for_the_fault(page):
    with pytest.raises(AssertionError):
        run_regression_test(page, "Broken")


@pytest.mark.gpu
@pytest.mark.parametrize("page", CLOSED)
def test_the_regression_test_is_green_for_the_fix(page):
    run_regression_test(page, "Fixed")


# -- fixtures -------------------------------------------------------------------------------------------

@pytest.mark.kernels
@pytest.mark.parametrize("slots", [[0, 1, 2, 3], [3, NO_ADAPTER, 3, 0], [NO_ADAPTER] * 3, [2]])
def test_an_output_says_which_adapter_has_worked(slots):
    from lorakit.ops import lora_linear
    device = runtime.device()
    batch = route_by_adapter(slots_to_device(slots, 4, device), detective.ranks(4), detective.scalings(4))
    out = lora_linear(detective.tokens(len(slots)), detective.weights(4), batch,
                      detective.nothing(len(slots)))
    assert detective.read(out) == detective.expected(slots)


def test_an_output_that_is_not_the_same_in_all_columns_is_not_read():
    out = detective.nothing(3)
    out[1, 5] = 1
    with pytest.raises(ValueError, match="differ"):
        detective.read(out)


def test_numbers_are_written_into_the_head_of_a_buffer():
    buffer = torch.full((5,), 9, dtype=torch.int32, device=runtime.device())
    detective.write(buffer, [1, 2])
    assert buffer.tolist() == [1, 2, 9, 9, 9]


# -- the table of all cases -----------------------------------------------------------------------------

def page_that_printed(tmp_path, text: str):
    cell = nbformat.v4.new_code_cell("cases.show(case)", outputs=[nbformat.v4.new_output("stream", text=text)])
    path = tmp_path / "301_a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A title\n\nmore"), cell]),
                   path)
    return path


def test_what_show_prints_can_be_read_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cases, "TOOLS", {"lint": cases.linted, "probe": cases.probed})
    case = next(case for case in cases.CASES if case.rule == "L2")
    cases.show(case, leave_out={"probe": "why (L3)"})
    said = capsys.readouterr().out
    assert cases.recorded([page_that_printed(tmp_path, said)]) == [
        ("A title", case.name, "L2", {"lint": "named", "probe": "not run"})]


def test_the_recorded_table_has_each_closed_page():
    rows = cases.recorded()
    assert len({title for title, *_ in rows}) == len(CLOSED)
    assert all(set(verdicts) == set(cases.TOOLS) for *_, verdicts in rows)
