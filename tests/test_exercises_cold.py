"""The checkers of *Cannot reproduce*, and what of the page runs without a GPU."""

import types

import pytest
import torch

from book import cases, detective, exercises
from chapter_functions import functions_of
from lorakit.capture import lint

CHAPTER = "308_cannot_reproduce"


class Kernel:
    """An autotuned kernel: it makes its choice in the first eager launch, and refuses to in a capture."""

    def __init__(self):
        self.cache = {}

    def launch(self, capturing):
        if not self.cache and capturing:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.cache["key"] = "choice"


class Server:
    """The page's server without a GPU: it warms up, captures, and serves."""

    def __init__(self, kernel, speculate, graphs=True):
        self.kernel, self.speculate, self.captured = kernel, speculate, None
        self.warm_up()
        if graphs:
            self.capture()

    def warm_up(self):
        if self.speculate:
            self.kernel.launch(capturing=False)

    def capture(self):
        if self.speculate:
            self.kernel.launch(capturing=True)
        self.captured = types.SimpleNamespace(graph="graph")

    def serve(self, slots):
        if self.speculate and not self.captured:
            self.kernel.launch(capturing=False)
        return detective.expected(slots)


class WarmingAllBranches(Server):
    def warm_up(self):
        self.kernel.launch(capturing=False)


class HoldingTheGraph(Server):  # and not what `attempt` returns
    def capture(self):
        super().capture()
        self.captured = "graph"


class WithoutWarmUp(Server):
    def warm_up(self):
        pass


class TryingAgain(WithoutWarmUp):
    def capture(self):
        try:
            super().capture()
        except RuntimeError:
            super().capture()


class Skipping(WithoutWarmUp):  # it starts, which is all that a naive test looks at
    def capture(self):
        self.captured = types.SimpleNamespace(graph="graph")

    def serve(self, slots):
        if self.speculate and self.captured:
            return [0] * len(slots)
        return super().serve(slots)


class WithoutGraph(WithoutWarmUp):  # right outputs, in every step eagerly
    def capture(self):
        try:
            super().capture()
        except RuntimeError:
            pass


class WithoutGraphKeepingTheError(WithoutGraph):  # as a refused `attempt` does
    def capture(self):
        super().capture()
        self.captured = self.captured or types.SimpleNamespace(graph=None, error="refused")

    def serve(self, slots):
        return detective.expected(slots)


class WithoutTuner(WithoutWarmUp):  # right outputs, from a graph
    def capture(self):
        self.captured = types.SimpleNamespace(graph="graph")


@pytest.mark.parametrize("server", [Server, WarmingAllBranches, HoldingTheGraph])
def test_a_server_that_warms_up_what_it_captures_passes(server, capsys):
    exercises.check_cold(server, Kernel)
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.parametrize("server, message", [
    (WithoutWarmUp, "in a new process: dies"),
    (TryingAgain, "in a new process: dies"),
    (Skipping, r"in a new process: slots \[0, 1, 2, 3\] gave \[0, 0, 0, 0\]"),
    (WithoutGraph, "no graph: each step runs eagerly"),
    (WithoutGraphKeepingTheError, "no graph: each step runs eagerly"),
    (WithoutTuner, "nobody has measured"),
])
def test_a_wrong_repair_is_refused_and_told_why(server, message, capsys):
    with pytest.raises(AssertionError, match=message):
        exercises.check_cold(server, Kernel)
    assert capsys.readouterr().out == ""


def refused(events, by_key=True, forgets=True, learns=False):
    tuned, found = set(), []
    for place, event in enumerate(events):
        verb, *launch = event.split()
        launch = tuple(launch if by_key else launch[:1])
        if verb == "exit":
            tuned = set() if forgets else tuned
        elif verb == "eager":
            tuned.add(launch)
        elif launch not in tuned:
            found.append(place)
            if learns:
                tuned.add(launch)
    return found


def test_the_right_model_of_a_process_passes(capsys):
    exercises.check_refused(refused)
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.parametrize("answer, message", [
    (lambda events: refused(events, learns=True), "'capture shrink 8', 'capture shrink 8'"),
    (lambda events: refused(events, by_key=False), "'eager shrink 4', 'capture shrink 8'"),
    (lambda events: refused(events, forgets=False), "'exit', 'capture shrink 8'"),
    (lambda events: [], "expected"),
    (lambda events: refused(events)[:1], "expected"),  # right while a log has one
])
def test_a_wrong_model_is_refused(answer, message, capsys):
    with pytest.raises(AssertionError, match=message):
        exercises.check_refused(answer)
    assert capsys.readouterr().out == ""


# -- the page -------------------------------------------------------------------------------------------

@pytest.mark.kernels
@pytest.mark.parametrize("slots", [[0, 1, 2, 3], [3, -1, 1], [2] * 8])
def test_a_step_for_drafts_computes_what_the_other_does(slots):
    import triton
    page = functions_of(CHAPTER)
    untuned = triton.jit(page["shrink_kernel"].fn)  # there is nothing to measure without a GPU
    for speculate in (False, True):
        server = page["Broken"](untuned, speculate, graphs=False)
        assert server.serve(slots) == detective.expected(slots)


@pytest.mark.kernels
def test_lint_notes_that_the_kernel_is_tuned_and_says_no_more():
    page = functions_of(CHAPTER)
    inputs = page["make_inputs"](0, cases.Held(torch.device("cpu")))
    report = lint(page["step"], *inputs)
    assert not report.breaks and not report.frozen
    assert [finding.rule for finding in report.notes].count("L14") == 1
    plain = lint(page["step"], *inputs, False)
    assert "L14" not in [finding.rule for finding in plain.notes]


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["Broken", "Skipping"])
def test_the_regression_test_and_the_checker_refuse_the_faults(name):
    page = functions_of(CHAPTER)
    with pytest.raises(AssertionError):
        page["regression_test"](page[name])
    with pytest.raises(AssertionError):
        exercises.check_cold(page[name], page["draft_kernel"])


@pytest.mark.gpu
def test_the_fix_passes_the_checker():
    page = functions_of(CHAPTER)
    exercises.check_cold(page["Fixed"], page["draft_kernel"])


@pytest.mark.gpu
@pytest.mark.parametrize("starts, came", [
    ([(True, True)], ["dies"]),
    ([(False, True), (True, True)], ["right", "dies"]),
    ([(True, False), (True, True)], ["right", "right"]),
    ([(True, True), (True, True)], ["dies", "dies"]),
])
def test_the_order_of_events_decides(starts, came):
    assert [said for *_, said in functions_of(CHAPTER)["lives"](starts)] == came
