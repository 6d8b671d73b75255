"""Checkers of *The adapter that was never there*, against the page's own servers and steps.

Without a GPU the recorder stands in for a graph, and PyTorch operations for the two kernels.
"""

from types import SimpleNamespace

import pytest
import torch

from book import cases, exercises, figures
from chapter_functions import functions_of
from lorakit import NO_ADAPTER, runtime
from lorakit.capture.recorder import Recorder

PAGE = "302_the_adapter_that_was_never_there"
pytestmark = pytest.mark.kernels  # the page imports lora_linear


def lora_of_operations(x, layer, batch, out):
    """`lora_linear` in operations that the recorder can replay. Adds into out."""
    places = torch.arange(batch.max_len)
    segments = torch.bucketize(places, batch.seg_indptr[1:].long(), right=True)
    slots = batch.weight_indices.long().clamp(min=0)[segments.clamp(max=batch.num_segments - 1)]
    tokens = batch.permutation[:batch.max_len].long().clamp(max=len(x) - 1)
    rows = x.float()[tokens]
    h = torch.einsum("tk,trk->tr", rows, layer.lora_a[:, 0].float()[slots])
    delta = torch.einsum("tr,tnr->tn", h, layer.lora_b.float()[slots]) * batch.scalings[slots][:, None]
    counts = (places < batch.seg_indptr[-1]) & (batch.permutation[:batch.max_len] < len(x))
    out.add_(torch.zeros_like(out, dtype=torch.float32).index_add_(
        0, tokens, delta * counts[:, None]).to(out.dtype))
    return out


def recorded(fn):
    graph = Recorder()
    with graph.capture():
        result = fn()
    nodes = [SimpleNamespace(name=call.op) for call in graph.calls]
    return SimpleNamespace(graph=graph, result=result, nodes=nodes, error=None)


@pytest.fixture
def page(monkeypatch):
    functions = functions_of(PAGE)
    if runtime.device().type != "cuda":
        monkeypatch.setitem(functions, "attempt", recorded)
        monkeypatch.setitem(functions, "lora_linear", lora_of_operations)
    return functions


def captures_with_adapters(page):
    """The first change of the solution without the second."""
    class Half(page["Broken"]):
        def capture(self):
            page["Broken"].prepare(self, [0])
            return super().capture()
    return Half


def prepares_always(page):
    """The second without the first."""
    return type("Half", (page["Broken"],), {"prepare": page["Fixed"].prepare})


@pytest.mark.parametrize("name", ["Fixed", "TwoGraphs"])
def test_right_servers_pass(page, name, capsys):
    exercises.check_branch(page[name])
    page["regression_test"](page[name]())
    assert capsys.readouterr().out == "passed\n"


def test_the_fault_is_refused(page):
    with pytest.raises(AssertionError, match=r"batch 0, slots \[0, 1, 2, 3\]: the adapters are ignored"):
        exercises.check_branch(page["Broken"])
    with pytest.raises(AssertionError, match=r"the adapters of \[0, 1, 2, 3\] change nothing"):
        page["regression_test"](page["Broken"]())


def test_the_naive_test_passes_what_is_wrong(page):
    for name in ("Broken", "Recaptures", "Fixed", "TwoGraphs"):
        page["naive_test"](page[name]())


def test_a_later_capture_is_refused(page):
    with pytest.raises(AssertionError, match="batch 0, .*: served, but the step ran in Python again"):
        exercises.check_branch(page["Recaptures"])
    with pytest.raises(AssertionError, match=r"base requests after .* got \[10, 20, 30, 40\]"):
        page["regression_test"](page["Recaptures"]())


def test_a_capture_with_adapters_alone_is_refused(page):
    half = captures_with_adapters(page)
    with pytest.raises(AssertionError, match="batch 1, .* base requests got adapters of another batch"):
        exercises.check_branch(half)
    with pytest.raises(AssertionError, match="base requests after"):
        page["regression_test"](half())


def test_batches_that_are_always_prepared_alone_are_refused(page):
    with pytest.raises(AssertionError, match="batch 0, .*: the adapters are ignored"):
        exercises.check_branch(prepares_always(page))


def test_a_server_without_graphs_is_refused(page):
    with pytest.raises(AssertionError, match="batch 0, .*: served, but the step ran in Python again"):
        exercises.check_branch(lambda: page["Broken"](graphs=False))


@pytest.mark.parametrize("slots", [[NO_ADAPTER] * 4, [0, 1, 2, 3], [2], [3, NO_ADAPTER, 3, 0]])
def test_without_graphs_the_reproduction_is_right(slots, page, capsys):
    page["tell"](page["Broken"](graphs=False), slots)
    assert capsys.readouterr().out.endswith("right\n")


def test_interpreted_without_graphs_it_is_right(capsys):
    """With the kernels themselves."""
    page = functions_of(PAGE)
    page["tell"](page["Broken"](graphs=False), [0, NO_ADAPTER, 3, 1])
    assert capsys.readouterr().out.endswith("right\n")


def test_lint_names_the_case_and_is_silent_on_its_twin():
    page = functions_of(PAGE)
    case = cases.Case("a branch", "S4", "", page["lora_if_any"], page["lora_always"], page["make_inputs"])
    assert cases.linted(case, fixed=False) == cases.NAMED
    assert cases.linted(case, fixed=True) == cases.SILENT


def test_the_figure_shows_what_a_graph_holds(page):
    figures.draw_graphs({"one": (["base"], [0, 0]), "two": (["base", "shrink_kernel"], [10, 40])})
    axes = figures.plt.gca()
    drawn = [text.get_text() for text in axes.texts]
    assert drawn == ["one", "base", "", "0", "0", "two", "base", "shrink", "", "10", "40"]
    figures.plt.close()


ANSWERS = {"one": "safe", "two": "frozen", "three": "safe", "four": "frozen", "five": "safe"}


def test_the_right_answers_pass(capsys):
    functions = functions_of(PAGE)
    exercises.check_branches({functions[name]: answer for name, answer in ANSWERS.items()})
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.parametrize("name", ANSWERS)
def test_a_wrong_answer_is_refused_with_what_speaks_against_it(name):
    functions = functions_of(PAGE)
    wrong = "safe" if ANSWERS[name] == "frozen" else "frozen"
    why = "for rows .* a replay gives" if wrong == "safe" else "its replays are right for every batch"
    with pytest.raises(AssertionError, match=f"{name} is not {wrong}: {why}"):
        exercises.check_branches({functions[each]: wrong if each == name else answer
                                  for each, answer in ANSWERS.items()})


def test_an_answer_that_is_none_is_named():
    with pytest.raises(AssertionError, match="one: say 'safe' or 'frozen', not 'S4'"):
        exercises.check_branches({functions_of(PAGE)["one"]: "S4"})
