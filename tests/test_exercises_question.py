"""The checkers of *Every kernel is fast*, and what of the page runs without a GPU."""

import pytest
import torch

from book import detective, exercises
from book.exercises.question import LINES, asks_device
from chapter_functions import functions_of
from lorakit import NO_ADAPTER, runtime
from lorakit.capture import lint
from lorakit.ops import lora_linear
from lorakit.routing import route_by_adapter

CHAPTER = "309_every_kernel_is_fast"


def page():
    return functions_of(CHAPTER)


@pytest.mark.kernels
def test_asking_nobody_passes(capsys):
    exercises.check_question(page()["Fixed"])
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.kernels
@pytest.mark.parametrize("name, message", [
    ("Broken", "refuses the step|the host waits"),  # right outputs
    ("Once", "refuses the step|the host waits"),
    ("AskHost", "S4"),  # right outputs, and no wait
    ("BaseOnly", r"slots \[0, 1, 2, 3\] gave \[0, 0, 0, 0\]"),  # fast, and right for some
])
def test_a_wrong_repair_is_refused_and_told_why(name, message, capsys):
    with pytest.raises(AssertionError, match=message):
        exercises.check_question(page()[name])
    assert capsys.readouterr().out == ""


@pytest.mark.kernels
def test_an_answer_that_is_asked_for_once_and_kept_is_refused():
    class FirstOnly(page()["Broken"]):  # right for ever, if the first batch had an adapter
        def wanted(self, slots):
            if not hasattr(self, "answer"):
                self.answer = super().wanted(slots)
            return self.answer

    with pytest.raises(AssertionError, match=r"gave \[0, 0, 0, 0\], .* after a start with \[-1"):
        exercises.check_question(FirstOnly)


@pytest.mark.kernels
def test_a_step_without_the_if_and_one_that_decides_on_the_device_pass(capsys):
    class Always(page()["Broken"]):
        def step(self, x, slots):
            batch = route_by_adapter(slots, self.ranks, self.scalings)
            for base, adapters in self.layers:
                x = lora_linear(x, adapters, batch, x @ base)
            return x

    class Where(page()["Broken"]):
        def step(self, x, slots):
            batch, some = route_by_adapter(slots, self.ranks, self.scalings), (slots != NO_ADAPTER).any()
            for base, adapters in self.layers:
                y = x @ base
                x = torch.where(some, lora_linear(x, adapters, batch, y.clone()), y)
            return x

    for answer in (Always, Where):
        exercises.check_question(answer)
    assert capsys.readouterr().out == "passed\n" * 2


@pytest.mark.gpu
def test_a_question_outside_of_captures_only_is_refused():
    class Guarded(page()["Broken"]):  # as it stood upstream: right outputs, right graphs, and an eager step waits
        def wanted(self, slots):
            return torch.cuda.is_current_stream_capturing() or super().wanted(slots)

    with pytest.raises(AssertionError, match="the host waits"):
        exercises.check_question(Guarded)


@pytest.mark.gpu
def test_a_value_that_is_read_too_early_is_refused():
    with pytest.raises(AssertionError, match="gave"):
        exercises.check_question(page()["Late"])


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["Broken", "Once", "AskHost", "Late"])
def test_the_regression_test_is_red_for_each_wrong_form(name):
    with pytest.raises(AssertionError):
        page()["regression_test"](page()[name])


@pytest.mark.gpu
def test_a_value_that_is_read_too_early_is_wrong_behind_queued_work():
    late, fixed = (page()["wrong"](page()[name], 0.2, 40) for name in ("Late", "Fixed"))
    assert late[0] > 10 and late[1] == 0 and fixed == [0, 0]


@pytest.mark.parametrize("answer", ["CEG", "g, e, c", "C E G"])
def test_the_lines_that_ask_are_these(answer, capsys):
    exercises.check_asks(answer)
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.parametrize("answer, message", [
    ("C", "E: .* asks the device"),  # what looks like a question
    ("CE", "G: .* asks the device"),  # a size is a value too
    ("CEFG", "F: .* does not ask"),  # every f-string
    ("CEGH", "H: .* does not ask"),
    ("CEGD", "D: .* does not ask"),
    ("CEGX", "X"),
    ("", "C: .* asks the device"),
])
def test_a_wrong_set_of_lines_is_refused(answer, message, capsys):
    with pytest.raises(AssertionError, match=message):
        exercises.check_asks(answer)
    assert capsys.readouterr().out == ""


@pytest.mark.gpu
@pytest.mark.parametrize("letter", LINES)
def test_a_gpu_agrees_with_lint_about_each_line(letter):
    from lorakit.capture import attempt
    slots = torch.tensor([0, 1, -1, 2], dtype=torch.int32, device="cuda")

    def run():
        exec(LINES[letter], {"slots": slots, "torch": torch})
        slots + 0

    run()
    assert (attempt(run).error is not None) == asks_device(LINES[letter])


# -- the page -------------------------------------------------------------------------------------------

@pytest.mark.kernels
@pytest.mark.parametrize("name", ["Broken", "Fixed", "Once", "AskHost", "NoQuestion"])
@pytest.mark.parametrize("slots", [[0, 1, 2, 3], [NO_ADAPTER] * 4, [2, NO_ADAPTER, 2, 0]])
def test_each_form_is_right_when_it_runs_eagerly(name, slots):
    server = page()[name](page()["one_layer"]())
    x = detective.tokens(4)
    assert detective.read(server.serve(x, slots)) == detective.expected(slots)


@pytest.mark.kernels
@pytest.mark.parametrize("name, times", [("Broken", 3), ("Once", 1)])
def test_lint_counts_the_questions(name, times):
    cpu = torch.device("cpu")
    server = page()[name](page()["stack"](3, 64, cpu))
    report = lint(server.step, torch.ones(4, 64, dtype=torch.float16),
                  torch.tensor([0, -1, 2, -1], dtype=torch.int32))
    finding, = report.breaks
    assert (finding.rule, finding.times) == ("L2", times)


@pytest.mark.kernels
def test_the_forms_give_the_same_bits():
    where = runtime.device()
    layers = page()["stack"](2, 64, where)
    x = torch.ones(4, 64, dtype=torch.float16, device=where)
    outs = [page()[name](layers).serve(x, [0, -1, 2, -1]) for name in ("Broken", "Fixed", "Once", "AskHost")]
    assert all(torch.equal(outs[0], out) for out in outs)
