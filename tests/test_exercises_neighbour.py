"""The checkers of *The neighbour's adapter* pass what is right and refuse wrong answers that readers give.

Without a GPU the servers are stand-ins, whose tokens get their adapters when somebody reads them.
"""

import pytest
import torch

from book import detective, exercises
from book.exercises.neighbour import Stream, outcome
from chapter_functions import functions_of
from lorakit import runtime, timing

PAGE = "305_the_neighbours_adapter"


class Late:
    """The host is ahead by `lead` batches; `deep` buffers in turn."""

    deep, lead = 1, 1000

    def __init__(self):
        self.outs = []

    def serve(self, slots):
        self.outs.append(torch.zeros(len(slots), detective.OUT))
        mine = len(self.outs) - 1
        for i in range(mine, max(-1, mine - self.lead - 1), -self.deep):  # those that read this buffer yet
            rows = (detective.expected(slots) + [0] * 8)[:len(self.outs[i])]
            self.outs[i].copy_(torch.tensor(rows)[:, None])
        return self.outs[-1]


class RingOf16(Late):
    deep = 16


class Right(Late):
    lead = 0


class Reversed(Right):  # wrong for each batch, whoever waits
    def serve(self, slots):
        return super().serve(slots).flip(0)


class Stale(Right):  # keeps the rows of a longer batch before
    def serve(self, slots):
        self.rows = (slots + getattr(self, "rows", [0] * 8)[len(slots):])
        return super().serve(self.rows)


@pytest.fixture
def without_a_gpu(monkeypatch):
    """The stand-ins need no clock and no stream."""
    monkeypatch.setattr(timing, "queue_work", lambda ms: None)
    monkeypatch.setattr(timing, "host_ms", lambda fn, queued_ms=10.0, repeats=5: (fn(), 0.1)[1])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *args: None)


def test_a_right_server_passes(without_a_gpu, capsys):
    exercises.check_neighbour(Right)
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.parametrize("answer, message", [
    (Late, r"batch 0 of 300, .* back to back .*: got .*; batch \d+ has these"),
    (RingOf16, r"batch 0 of 300, .* back to back"),
    (Reversed, r"batch \d+, .* with a wait after each batch"),
    (Stale, r"batch \d+, .* with a wait after each batch"),
])
def test_wrong_servers_are_refused(answer, message, without_a_gpu, capsys):
    with pytest.raises(AssertionError, match=message):
        exercises.check_neighbour(answer)
    assert capsys.readouterr().out == ""


def test_a_server_that_waits_for_everything_is_refused(without_a_gpu, monkeypatch):
    monkeypatch.setattr(timing, "host_ms", lambda fn, queued_ms=10.0, repeats=5: queued_ms + 0.2)
    with pytest.raises(AssertionError, match=r"serve holds the host for 20.2 ms"):
        exercises.check_neighbour(Right)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["Fixed", "TwoWithEvents", "Fresh"])
def test_the_pages_repairs_pass(name, capsys):
    exercises.check_neighbour(functions_of(PAGE)[name])
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.gpu
@pytest.mark.parametrize("name, message", [
    ("Broken", "back to back"), ("Ring", "back to back"), ("Eager", "back to back"),
    ("Crude", "holds the host"), ("Pageable", "holds the host")])
def test_the_pages_wrong_forms_are_refused(name, message):
    with pytest.raises(AssertionError, match=message):
        exercises.check_neighbour(functions_of(PAGE)[name])


@pytest.mark.gpu
def test_the_regression_test_needs_more_batches_than_the_ring_has_buffers():
    page = functions_of(PAGE)
    page["hold_and_serve"](page["Ring"](), count=2, held_ms=20.0)
    with pytest.raises(AssertionError, match="batch 0"):
        page["regression_test"](page["Ring"]())


@pytest.mark.kernels
def test_the_page_tells_whose_slots_an_output_shows():
    whose, batches = functions_of(PAGE)["whose"], [[0, 1], [2, 2], [0, 1], [3, 0]]
    assert whose([10, 20], batches, 0) == 0 and whose([10, 20], batches, 3) == 2
    assert whose([40, 10], batches, 0) == 3 and whose([40, 20], batches, 0) is None


# -- five programs --------------------------------------------------------------------------------------

@pytest.fixture
def programs():
    page = functions_of(PAGE)
    return {letter: page[f"program_{letter.lower()}"] for letter in "ABCDE"}


@pytest.mark.kernels
@pytest.mark.parametrize("wrong", ["ABD", "bda", "A, B, D"])
def test_the_right_letters_pass(wrong, programs, capsys):
    exercises.check_late(programs, wrong=wrong)
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.kernels
@pytest.mark.parametrize("wrong, message", [
    ("AD", "B can be wrong: on the stream that is late, batch 0 is 10, and its result is 0"),
    ("BD", "A can be wrong: .* batch 0 is 10, and its result is 60"),
    ("AB", "D can be wrong: .* batch 0 is 10, and its result is 20"),  # it has an event, after all
    ("ABCD", "C is right"),
    ("ABDE", "E is right"),
    ("", "A can be wrong"),
    ("ABF", r"\['F'\] is not among"),
])
def test_wrong_letters_are_refused(wrong, message, programs, capsys):
    with pytest.raises(AssertionError, match=message):
        exercises.check_late(programs, wrong=wrong)
    assert capsys.readouterr().out == ""


@pytest.mark.kernels
def test_on_a_stream_that_runs_at_once_all_five_are_right(programs):
    assert [outcome(program, late=False) for program in programs.values()] == [None] * 5


def test_a_late_stream_runs_what_is_waited_for_and_no_more():
    log, stream = [], Stream(late=True)
    marks = [stream.run(log.append, i) for i in range(4)]
    assert log == []
    stream.wait(marks[1])
    stream.wait(marks[0])
    assert log == [0, 1] and marks[1].ran and not marks[2].ran
    stream.wait()
    assert log == [0, 1, 2, 3]


@pytest.mark.skipif(runtime.HAS_GPU, reason="says what a machine without a GPU is told")
@pytest.mark.kernels
def test_the_case_can_be_linted_without_a_gpu():
    from book import cases
    page = functions_of(PAGE)
    case = cases.Case("neighbour", "S8", "", page["step"], page["step"], page["make_inputs"])
    assert cases.run(case) == cases.run(case, fixed=True) == {"lint": cases.SILENT}
