"""Every loud rule fails and is repaired as *The loud rules* says: its own cells' functions, run.

A rule has two functions in the chapter. For most they are *bodies*, to be captured here. For those
in PROCEDURES they capture by themselves, some in a process of their own, and return the text of an
error or None.
"""

import re

import nbformat
import pytest
import torch

from chapter_functions import CHAPTERS, function_names, functions_of
from book.exercises import loud_rules

CHAPTER = "23_the_loud_rules"
RULES = [f"L{number}" for number in range(1, 20)]
BODIES = ["L1", "L2", "L3", "L5", "L6", "L7", "L8", "L13", "L14", "L18"]
PROCEDURES = ["L4", "L9", "L10", "L11", "L12", "L15", "L16", "L17", "L19"]
ERRORS = {  # what stays of an error's text from version to version
    "L1": "operation not permitted", "L2": "operation not permitted",
    "L3": "Cannot copy between CPU and CUDA", "L4": "non-default stream",
    "L5": "legacy stream", "L6": "unjoined work", "L7": "uncaptured work",
    "L8": "event last recorded in a capturing stream", "L9": "merge of separate capture",
    "L10": "same stream", "L11": "previous error during capture",
    "L12": "previous error during capture", "L14": "operation not permitted",
    "L15": "previous error during capture", "L16": "CUBLAS", "L17": "NCCL",
    "L18": "generator", "L19": "CUDA error 910",
}
FROM_ELSEWHERE = ("L11", "L12", "L15")  # which of the two errors comes first depends on the version


def attempt(fn):
    from lorakit.capture import attempt
    return attempt(fn)


@pytest.fixture
def well():
    """After the test, random numbers and captures work in this process."""
    yield
    assert torch.rand(4, device="cuda").shape == (4,)
    y = torch.zeros(4, device="cuda")
    again = attempt(lambda: y.add_(1))
    assert again.graph is not None, again.error
    again.graph.replay()
    assert y.tolist() == [1.0] * 4
    assert torch.rand(4, device="cuda").min().item() >= 0


# -- bookkeeping: needs no GPU ---------------------------------------------------------------------

def test_every_rule_has_both_forms_in_the_chapter():
    names = function_names(CHAPTER)
    missing = [f"{rule}_{form}" for rule in RULES for form in ("fails", "fixed")
               if f"{rule}_{form}" not in names]
    assert not missing


def test_every_rule_has_a_heading_with_a_label():
    notebook = nbformat.read(CHAPTERS / f"{CHAPTER}.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for rule in RULES:
        found = re.findall(rf"(?m)^\(rule-{rule.lower()}\)=\n###? {rule}: \S", text)
        assert len(found) == 1, f"{rule} has {len(found)} headings with the label (rule-{rule.lower()})="


def test_every_rule_is_a_body_or_a_procedure():
    assert sorted(BODIES + PROCEDURES) == sorted(RULES)
    assert sorted(loud_rules.PROCEDURES) == sorted(PROCEDURES)
    assert sorted(ERRORS) == sorted(set(RULES) - {"L13"})


def test_the_functions_of_the_chapter_can_be_had_without_a_gpu():
    functions = functions_of(CHAPTER)
    assert callable(functions["L3_fails"]) and callable(functions["broken_pick"])
    assert "graph" not in functions and "reseeded" not in functions  # such cells do not run here


@pytest.mark.parametrize("calls, rule", [
    ("origin runs; side waits origin; side runs; origin waits side", "captured"),
    ("origin runs; side waits origin; side runs", "L6"),
    ("origin runs; side waits origin; side runs; origin waits side; side runs", "L6"),
    ("origin waits side", "L7"),
    ("side runs; origin waits side", "L7"),
    ("side waits origin; other runs; side waits other", "L7"),
    ("origin runs; default waits origin", "L5"),
    ("side waits origin; side runs; default waits side", "L5"),
    ("origin waits default", "L7"),
    ("side waits origin; side runs; other waits side; other runs; origin waits other", "captured"),
    ("side waits origin; side runs; other waits side; origin waits side; other runs", "L6"),
    ("origin runs; side runs", "captured"),
    ("other waits side; other runs", "captured"),
])
def test_the_model_of_streams(calls, rule):
    assert functions_of(CHAPTER)["verdict"](calls.split("; ")) == rule


def test_an_error_loses_its_paths_and_its_advice():
    text = "NCCL error in: /pytorch/torch/NCCLUtils.cpp:93, unhandled cuda error\nmore"
    assert loud_rules.said(RuntimeError(text)) == "RuntimeError: NCCL error, unhandled cuda error"
    assert loud_rules.said("a\nb") == "a" and loud_rules.said(None) is None


def answer(number):
    return [number, y.tolist()]  # noqa: F821 - the child has a `y`


def silent():
    os._exit(1)  # noqa: F821 - the child has `os`


def test_a_child_answers_once_and_a_silent_one_is_an_error(monkeypatch):
    monkeypatch.setattr(loud_rules, "PRELUDE", loud_rules.PRELUDE.replace("cuda", "cpu"))
    loud_rules.side_by_side((answer, 3))
    assert loud_rules.in_child(answer, 3) == [3, [0.0] * 8]
    assert loud_rules.in_child(answer, 3) is loud_rules.in_child(answer, 3)
    with pytest.raises(RuntimeError, match="silent in a child"):
        loud_rules.in_child(silent)


# -- the rules, on a GPU ---------------------------------------------------------------------------

@pytest.mark.gpu
@pytest.mark.parametrize("rule", [rule for rule in BODIES if rule != "L13"])
def test_a_body_is_refused(rule, well):
    tried = attempt(functions_of(CHAPTER)[f"{rule}_fails"])
    assert tried.graph is None, f"{rule}_fails was captured"
    assert ERRORS[rule] in tried.error
    assert tried.rule == rule
    if rule == "L6":
        assert tried.line is None  # nothing is wrong until the capture ends
    else:
        assert tried.line.source and tried.line.number > 0


@pytest.mark.gpu
@pytest.mark.parametrize("rule", BODIES)
def test_a_repaired_body_is_captured_and_replays_what_it_does_eagerly(rule, well):
    functions = functions_of(CHAPTER)
    body, x, y = functions[f"{rule}_fixed"], functions["x"], functions["y"]

    def start():
        x.copy_(torch.arange(8.0))
        y.fill_(2)

    start()
    body()
    eager = x.clone(), y.clone()
    tried = attempt(body)
    assert tried.error is None and tried.nodes
    start()
    tried.graph.replay()
    if rule != "L18":  # random numbers
        assert torch.equal(x, eager[0]) and torch.equal(y, eager[1])
    else:
        first = y.clone()
        tried.graph.replay()
        assert not torch.equal(first, y)


@pytest.mark.gpu
@pytest.mark.parametrize("rule", PROCEDURES)
def test_a_procedure_is_refused_and_its_repair_is_not(rule, well):
    functions = functions_of(CHAPTER)
    error = functions[f"{rule}_fails"]()
    assert error is not None, f"{rule}_fails was captured"
    assert ERRORS[rule] in error or rule in FROM_ELSEWHERE and "not permitted" in error
    assert functions[f"{rule}_fixed"]() is None


@pytest.mark.gpu
def test_a_cold_kernel_is_captured_and_right_or_refused_as_such(well):
    functions = functions_of(CHAPTER)  # L13: drivers and versions differ
    y = functions["y"]
    tried = attempt(functions["L13_fails"])
    if tried.graph is None:
        assert "not permitted" in tried.error
    else:
        y.zero_()
        tried.graph.replay()
        assert y.tolist() == [3.0] * 8


@pytest.mark.gpu
@pytest.mark.parametrize("calls", [
    "origin runs; side waits origin; side runs; origin waits side",
    "origin runs; side waits origin; side runs",
    "side waits origin; side runs; other waits side; other runs; origin waits other",
    "side waits origin; side runs; other waits side; origin waits side; other runs",
    "origin runs; default waits origin",
    "origin waits default",
    "origin runs; side runs",
])
def test_the_model_of_streams_agrees_with_the_gpu(calls, well):
    functions, calls = functions_of(CHAPTER), calls.split("; ")
    streams = {"side": torch.cuda.Stream(), "other": torch.cuda.Stream()}
    tried = attempt(lambda: loud_rules.perform(calls, streams, functions["x"]))
    assert (tried.rule or "captured") == functions["verdict"](calls), tried.error


@pytest.mark.gpu
def test_a_refusal_in_pytorch_leaves_a_partial_graph(well):
    x, y, graph = torch.zeros(4, device="cuda"), torch.zeros(4, device="cuda"), torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="Cannot copy"), torch.cuda.graph(graph):
        y.add_(1)
        x[0] = torch.tensor(0.0)
        y.add_(10)
    graph.replay()
    assert y.tolist() == [1.0] * 4


@pytest.mark.gpu
def test_what_a_refusal_by_cuda_leaves_behind():
    lines = loud_rules.in_child(functions_of(CHAPTER)["after_a_refusal"])
    assert len(lines) == 4
    assert "previous error" in lines[0] and "not permitted" in lines[1]
    assert lines[2].startswith("torch.rand:")
