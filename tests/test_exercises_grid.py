"""*Right for one adapter*: its classes, its regression test, and its checkers.

`host_attempt` stands in for `attempt` where there is no GPU: a recording of PyTorch's operations
and of interpreted launches, whose grids and numbers are frozen as in a CUDA graph.
"""

from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from book import detective, exercises
from book.exercises.grid import SUSPECTS, workers
from chapter_functions import functions_of
from lorakit import runtime
from lorakit.capture import lint
from lorakit.capture.recorder import Recorder

PAGE = "301_right_for_one_adapter"
pytestmark = pytest.mark.kernels


def host_attempt(fn):
    """An Attempt of what fn records on the CPU."""
    from triton.runtime.interpreter import InterpretedFunction
    graph, nodes, interpret = Recorder(), [], InterpretedFunction.run

    def record(kernel, *args, grid, warmup, **kwargs):
        def launch():
            interpret(kernel, *args, grid=grid, warmup=warmup, **kwargs)
        graph._tape.append(SimpleNamespace(again=(launch, (), {}, ())))
        nodes.append(SimpleNamespace(grid=grid))

    with mock.patch.object(InterpretedFunction, "run", record), graph.capture():
        result = fn()
    return SimpleNamespace(graph=graph, result=result, error=None, nodes=nodes)


def page_of(stem):
    """The definitions of a page, which capture on a GPU, or on the host."""
    page = functions_of(stem)
    if not torch.cuda.is_available():
        page["attempt"] = host_attempt
    return page


@pytest.fixture
def page():
    return page_of(PAGE)


# -- the classes of the page ----------------------------------------------------------------------------

@pytest.mark.parametrize("slots, got", [
    ([0, 0, 0, 0], [10] * 4), ([2] * 4, [30] * 4), ([0, 1, 2, 3], [10, 0, 0, 0]),
    ([1, 1, 3, 3, 3], [20, 20, 0, 0, 0]), ([3, 2, 1, 0], [40, 0, 0, 0])])
def test_broken_serves_the_first_segment(page, slots, got):
    assert page["Broken"]().serve(slots) == got
    assert page["Broken"](graph=False).serve(slots) == detective.expected(slots)


@pytest.mark.parametrize("dummy, right", [
    ([3] * 8, 1), ([-1] * 8, 1), ([0] * 4 + [1] * 4, 2), ([3] * 3 + [1] * 3 + [0] * 2, 3),
    ([0, 0, 1, 1, 2, 2, 3, 3], 4)])
def test_the_number_of_the_dummys_segments_decides(page, dummy, right):
    expected = detective.expected([0, 1, 2, 3])
    assert page["Broken"](dummy).serve([0, 1, 2, 3]) == expected[:right] + [0] * (4 - right)


@pytest.mark.parametrize("graph", [True, False])
def test_half_depends_on_the_batch_before(page, graph):
    server = page["Half"](graph=graph)
    assert server.serve([0, 0, -1, -1]) == [10, 10, 0, 0]
    assert server.serve([0, 1, 2, 3]) == [10, 20, 30, 40]
    assert server.serve([0, 0, -1, -1]) == [10, 10, 0, 40]
    assert server.serve([-1] * 4) == [0, 0, 0, 40]


@pytest.mark.parametrize("name, first", [("Broken", "slots [0, 1, 2, 3]"), ("Half", "slots [-1, -1")])
def test_the_regression_test_is_red(page, name, first):
    with pytest.raises(AssertionError) as raised:
        page["regression_test"](page[name]())
    assert str(raised.value).startswith(first)


def test_the_regression_test_is_green(page):
    page["regression_test"](page["Fixed"]())


# -- its cases ------------------------------------------------------------------------------------------

def batches_of(page, inputs, device=torch.device("cpu")):
    held = SimpleNamespace(device=device)
    return lambda i: page[inputs](i, held)


def test_lint_names_the_frozen_grid_and_not_the_tail(page):
    batches = batches_of(page, "inputs")
    report = lint(page["add"], *batches(0), other=lambda: batches(1))
    assert "S3" in {finding.rule for finding in report.frozen}
    for name in ("half_step", "whole_step"):
        batches = batches_of(page, "tail_inputs")
        report = lint(page[name], *batches(0), other=lambda: batches(1))
        assert not report.frozen and not report.breaks, report


def test_the_steps_of_the_cases_are_right_where_they_should_be(page):
    whole, half = (batches_of(page, "tail_inputs", runtime.device()) for _ in range(2))
    for i, expected in ((0, [10, 20, 30, 40] * 2), (1, [10, 10] + [0] * 6), (2, [40, 30, 20, 10] * 2),
                        (1, [10, 10] + [0] * 6)):
        assert detective.read(page["whole_step"](*whole(i))) == expected
        found = detective.read(page["half_step"](*half(i)))
        assert (found == expected) == (i != 1)
    assert found == [10, 10, 0, 10, 40, 30, 20, 10]


# -- check_grid -----------------------------------------------------------------------------------------

def test_check_grid_passes_the_solution(page, capsys):
    exercises.check_grid(page["Fixed"])
    assert capsys.readouterr().out == "passed\n"


def variants(page):
    Broken, Half, Fixed, cut = (page[name] for name in ("Broken", "Half", "Fixed", "cut"))

    class NobodysTail(Half):  # right here: these kernels stop at NO_ADAPTER
        def refresh(self, slots):
            super().refresh(slots)
            self.weight_indices[len(cut(slots)[1]):].fill_(-1)

    class RichDummy(Broken):  # a full list of segments at the capture, and whole lists ever after
        def __init__(self):
            super().__init__(dummy=(0, 1) * 4)

        def refresh(self, slots):
            bounds, owners = cut(slots)
            spare = 8 - len(owners)
            detective.write(self.seg_indptr, bounds + [bounds[-1]] * spare)
            detective.write(self.weight_indices, owners + [0] * spare)
            self.segments = len(owners)

    class OnlyRich(Broken):
        def __init__(self):
            super().__init__(dummy=(0, 1) * 4)

    class ZeroSlots(Half):
        def refresh(self, slots):
            super().refresh(slots)
            self.weight_indices[len(cut(slots)[1]):].zero_()

    class CleansAfterwards(Half):
        """A tail that is clean at the start only."""
        def __init__(self):
            super().__init__()
            self.seg_indptr.zero_()
            self.weight_indices.zero_()

    class Eager(Fixed):
        def serve(self, slots):
            self.refresh(slots)
            self.step()
            return detective.read(self.out[:len(slots)])

    class Captures(Fixed):
        def serve(self, slots):
            self.refresh(slots)
            self.graph = page["attempt"](self.step)
            return super().serve(slots)

    class Asks(Half):
        def refresh(self, slots):
            super().refresh(slots)
            n = len(cut(slots)[1])
            self.seg_indptr[n + 1:].fill_(int(self.seg_indptr[n]))

    return locals()


@pytest.mark.parametrize("name", ["NobodysTail", "RichDummy"])
def test_check_grid_passes_other_right_answers(page, name):
    exercises.check_grid(variants(page)[name])


@pytest.mark.parametrize("name, says", [
    ("Broken", "slots [0, 1, 2, 3] after"),
    ("Half", "got"), ("OnlyRich", "got"), ("ZeroSlots", "got"), ("CleansAfterwards", "got"),
    ("Eager", "serve called step"), ("Captures", "serve called step"),
    pytest.param("Asks", "refresh waits", marks=pytest.mark.gpu)])
def test_check_grid_refuses(page, name, says):
    with pytest.raises(AssertionError, match="slots|refresh") as raised:
        exercises.check_grid(variants(page)[name])
    assert says in str(raised.value)


# -- check_two_batches ----------------------------------------------------------------------------------

@pytest.mark.parametrize("batches", [
    [[0, 1, 2, 3], [-1, -1, -1, -1]], [[3, 2, 1, 0, 3, 2, 1, 0], [-1] * 8],
    [[1, 2, 1], [-1, -1, -1]]])
def test_check_two_batches_passes(batches, capsys):
    exercises.check_two_batches(batches)
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.parametrize("batches, says", [
    ([[0, 0, 0, 0], [1, 1, 1, 1]], "a graph with one program"),  # each adapter alone
    ([[0, 1, 2, 3]], "an old tail"),  # the first report
    ([[-1] * 4, [0, 1, 2, 3]], "an old tail"),  # in the other order
    ([[0, 1, 0, 1], [1, 1, 1, 1]], "two writers"),
    ([[0, 0, 1, 1], [-1] * 4], "two programs"),
    ([[0, 1, 2, 3], [-1] * 4, [0] * 4], "two batches at most"),
    ([[0, 1, 2, 4], [-1] * 4], "slots are"),
    ([[0, 1] * 5, [-1] * 4], "10 tokens")])
def test_check_two_batches_refuses(batches, says):
    with pytest.raises(AssertionError) as raised:
        exercises.check_two_batches(batches)
    assert says in str(raised.value)


def test_the_suspects_are_as_the_page_has_them(page):
    """Where one program writes a token, the model says what a server of the page gives."""
    batches = [[0, 1, 2, 3], [-1] * 4, [3, 3, -1, -1], [1, 2, -1]]
    one, _, old, _ = SUSPECTS.values()
    for name, suspect in (("Broken", one), ("Half", old)):
        server = page[name]()
        for slots, by in zip(batches, workers(batches, *suspect)):
            assert server.serve(slots) == [sum(10 * (slot + 1) for slot in each) for each in by]
