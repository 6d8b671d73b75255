"""The checkers of *Catch it before the GPU does* pass the solution and refuse the wrong answers readers
give; and its small lints say of each line what the chapter says."""

import functools

import pytest
import torch

from book import exercises
from book.exercises.laptop import by_lint, compare, step_to_repair
from chapter_functions import functions_of

CHAPTER = functions_of("27_catch_it_before_the_gpu_does")
Questions, Tagged, memory_of = (CHAPTER[name] for name in ("Questions", "Tagged", "memory_of"))


# -- more ears at the upper door -------------------------------------------------------------------------

def has_list(index):
    return any(isinstance(part, list) for part in (index if isinstance(index, tuple) else (index,)))


def ears(reads=(torch.Tensor.numpy, torch.Tensor.cpu), index=has_list, given=lambda args: args[:1],
         on_device_only=True, returns=True):
    """A lint that hears these; the arguments are the ways to get it wrong."""
    class Door(Questions):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            items = func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
            heard = func in reads or items and index(args[1])
            there = any(isinstance(arg, torch.Tensor) and memory_of(arg) in self.mini.device
                        for arg in given(args))
            if heard and (there or not on_device_only):
                self.mini.found.append((func.__name__, ""))
            result = super().__torch_function__(func, types, args, kwargs)
            return result if returns else None
    return type("Ears", (Tagged,), {"door": Door})


# -- five lines --------------------------------------------------------------------------------------------

def repaired(logits, slots, scalings, picked, counts, nan=True, own=True, reserved=True, zeroed=True):
    scale = scalings[slots]
    if own:
        scale = torch.where(slots >= 0, scale, 1.0)
    scores = logits * scale[:, None]
    if nan:
        scores = scores.masked_fill(scores.isnan(), 0.0)
    picked.copy_(scores.argmax(dim=1))
    if reserved:
        picked[0:1].zero_()
    if zeroed:
        counts.zero_()
    counts.scatter_add_(0, slots.clamp(min=0), (slots >= 0).long())


def counted_for_all(logits, slots, scalings, picked, counts):  # a slot of -1 counts as slot 0
    repaired(logits, slots, scalings, picked, counts)
    counts.zero_()
    counts.scatter_add_(0, slots.clamp(min=0), torch.ones_like(slots))


def into_new_tensors(logits, slots, scalings, picked, counts):
    picked, counts = picked.clone(), counts.clone()
    repaired(logits, slots, scalings, picked, counts)
    return picked, counts


def with_a_branch(logits, slots, scalings, picked, counts):
    repaired(logits, slots, scalings, picked, counts, nan=bool(logits.isnan().any()))


def with_the_assignment(logits, slots, scalings, picked, counts):
    repaired(logits, slots, scalings, picked, counts, reserved=False)
    picked[0] = 0


def with_a_count_of_the_host(logits, slots, scalings, picked, counts):
    repaired(logits, slots, scalings, picked, counts)
    for slot in range(len(counts)):
        counts[slot:slot + 1].fill_(slots.tolist().count(slot))


RIGHT = [
    (exercises.check_doors, ears()),
    (exercises.check_repair, repaired),
    (exercises.check_second_batch, [0, 1, 0, 1, 0]),
    (exercises.check_second_batch, [3, 2, 1, 0, -1, -1, -1, -1]),
]
WRONG = [
    (exercises.check_doors, r"`x.cpu\(\)` is refused", ears(reads=(torch.Tensor.numpy,))),
    (exercises.check_doors, r"`m\[:, \[0, 2\]\].* is refused",  # right while the list stands alone
     ears(index=lambda index: isinstance(index, list))),
    (exercises.check_doors, r"`pin.numpy\(\)` is taken.*pin lies on the host",  # passes without host tensors
     ears(on_device_only=False)),
    (exercises.check_doors, r"`y\[idx\] = x\[idx\]` is taken", ears(index=lambda index: True)),
    (exercises.check_doors, "is refused", Tagged),
    (exercises.check_repair, "batch 1: picked is", functools.partial(repaired, nan=False)),  # no NaN in batch 0
    (exercises.check_repair, "picked is", functools.partial(repaired, own=False)),  # right without a -1
    (exercises.check_repair, "picked is", functools.partial(repaired, reserved=False)),
    (exercises.check_repair, "counts is", functools.partial(repaired, zeroed=False)),  # right while it was zero
    (exercises.check_repair, "counts is", counted_for_all),
    (exercises.check_repair, "picked is", into_new_tensors),
    (exercises.check_repair, "right values, but:[^$]*breaks L2", with_a_branch),
    (exercises.check_repair, "right values, but:[^$]*breaks L3", with_the_assignment),
    (exercises.check_repair, "right values, but:[^$]*breaks L3", with_a_count_of_the_host),
    (exercises.check_repair, "right values, but:[^$]*breaks L3", step_to_repair),
    (exercises.check_second_batch, "lint names nothing: S3 and S4", [0, 0, -1]),
    (exercises.check_second_batch, "lint names nothing: S3 and S4", [1, 1]),  # the same after padding
    (exercises.check_second_batch, "names S4: S3", [0, 1, 2, 3]),  # longer, and padded alike
    (exercises.check_second_batch, "names S3: S4", [0, 0, 0, -1, -1]),  # longer, and one adapter
    (exercises.check_second_batch, "1 to 8 tokens", [0, 1] * 5),
    (exercises.check_second_batch, "list of slots", torch.tensor([0, 1, 0, 1, 0])),
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


def test_an_answer_that_loses_the_result_is_told_so():
    with pytest.raises((AssertionError, AttributeError, TypeError)):
        exercises.check_doors(ears(returns=False))


def test_the_solutions_in_the_chapter_pass():
    exercises.check_doors(CHAPTER["MoreEars"])
    exercises.check_repair(CHAPTER["step"])


def test_compare_marks_what_the_small_lint_gets_wrong(capsys):
    compare(["x[0] = 0", "x[0:1] = 0", "x.numpy()", "F.one_hot(idx, 5)"], Tagged)
    assert [line[0] for line in capsys.readouterr().out.splitlines()] == [" ", " ", "*", "*"]


def test_verdicts_of_pinned_copies():
    assert by_lint("x.copy_(pin)") == "L3"
    assert by_lint("x.copy_(pin, non_blocking=True)") == "taken"
