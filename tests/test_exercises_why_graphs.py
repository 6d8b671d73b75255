"""The checkers of *Why graphs* pass the solution and refuse the wrong answers that readers give."""

import math

import pytest

from book import exercises


def end_us(launch_us, kernels_us, queued_us=0, waits=()):
    host, gpu = 0, queued_us
    for i, kernel_us in enumerate(kernels_us):
        host += launch_us
        gpu = max(host, gpu) + kernel_us
        host = gpu if i in waits else host
    return gpu


def saved(launch_us, replay_us, kernels_us, queued_us):
    graph_us = max(replay_us, queued_us) + sum(kernels_us)
    return end_us(launch_us, kernels_us, queued_us) - graph_us


def saved_by_the_formula_for_equals(launch_us, replay_us, kernels_us, queued_us):
    n, kernel_us = len(kernels_us), sum(kernels_us) // len(kernels_us)
    eager_us = n * max(launch_us, kernel_us) + min(launch_us, kernel_us) + queued_us
    return eager_us - max(replay_us, queued_us) - sum(kernels_us)


def waiting_for_one_kernel(launch_us, kernels_us, waits):
    host = gpu = 0
    for i, kernel_us in enumerate(kernels_us):
        host += launch_us
        gpu = max(host, gpu) + kernel_us
        host += kernel_us if i in waits else 0  # right while the queue holds nothing else
    return gpu


def waiting_too_early(launch_us, kernels_us, waits):
    host = gpu = 0
    for i, kernel_us in enumerate(kernels_us):
        host = max(host, gpu) if i in waits else host
        host += launch_us
        gpu = max(host, gpu) + kernel_us
    return gpu


def paid(capture_us, eager_us, replay_us):
    return math.ceil(capture_us / (eager_us - replay_us)) if eager_us > replay_us else None


RIGHT = [
    (exercises.check_saved, saved),
    (exercises.check_waits, lambda launch_us, kernels_us, waits: end_us(
        launch_us, kernels_us, 0, waits)),
    (exercises.check_paid_off, paid),
]
WRONG = [
    (exercises.check_saved, "queued 1000",  # right while nothing is queued
     lambda launch, replay, kernels, queued: saved(launch, replay, kernels, 0)),
    (exercises.check_saved, r"kernels \[2, 2, 2, 2, 2, 2, 2, 2, 2, 300\]",  # right for equal ones
     saved_by_the_formula_for_equals),
    (exercises.check_saved, "expected",  # the longer lane, without its overlap
     lambda launch, replay, kernels, queued:
     max(queued + sum(kernels), launch * len(kernels)) - max(replay, queued) - sum(kernels)),
    (exercises.check_saved, "expected",  # as if every launch were a loss
     lambda launch, replay, kernels, queued: launch * len(kernels) - replay),
    (exercises.check_waits, r"waits after \[1\]", waiting_for_one_kernel),
    (exercises.check_waits, "waits after", waiting_too_early),
    (exercises.check_waits, r"waits after \[2\]",  # right while nobody waits
     lambda launch, kernels, waits: end_us(launch, kernels)),
    (exercises.check_paid_off, "replay 200",  # right while the saving divides the cost
     lambda capture, eager, replay: capture // (eager - replay)),
    (exercises.check_paid_off, "capture 4200",  # one too many where it divides
     lambda capture, eager, replay: capture // (eager - replay) + 1 if eager > replay else None),
    (exercises.check_paid_off, "division by zero",  # right while the graph is faster
     lambda capture, eager, replay: math.ceil(capture / (eager - replay))),
    (exercises.check_paid_off, "eager 190",  # right while the graph is not slower
     lambda capture, eager, replay:
     -(-capture // (eager - replay)) if eager != replay else None),
    (exercises.check_paid_off, "capture 4000, eager 900",  # forgets that a replay costs too
     lambda capture, eager, replay: -(-capture // eager)),
    (exercises.check_paid_off, "expected",  # a fraction of a step
     lambda capture, eager, replay: capture / (eager - replay) if eager > replay else None),
]


@pytest.mark.parametrize("checker, answer", RIGHT)
def test_the_solution_passes(checker, answer, capsys):
    checker(answer)
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.parametrize("checker, message, answer", WRONG)
def test_a_wrong_answer_is_refused_and_told_why(checker, message, answer, capsys):
    with pytest.raises(AssertionError, match=message):
        checker(answer)
    assert capsys.readouterr().out == ""
