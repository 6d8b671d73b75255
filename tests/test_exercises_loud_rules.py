"""The checkers of *The loud rules* pass the solution and refuse the wrong answers readers give."""

import pytest
import torch

from book import exercises
from book.exercises.loud_rules import FIRST_ERRORS
from chapter_functions import functions_of
from lorakit.capture.attempt import UNCLEAR, rule_of, rule_of_operation

CHAPTER = "23_the_loud_rules"


def picked(logits, active, tokens, count):
    tokens.copy_(torch.where(active, logits.argmax(dim=1), tokens))
    torch.sum(active, dim=0, keepdim=True, out=count)
    tokens.masked_fill_(count == 0, -1)


def picked_for_all(logits, active, tokens, count):  # right while every row is active
    tokens.copy_(logits.argmax(dim=1))
    count.copy_(active.sum())


def picked_without_the_empty_batch(logits, active, tokens, count):
    tokens.copy_(torch.where(active, logits.argmax(dim=1), tokens))
    count.copy_(active.sum())


def picked_into_new_tensors(logits, active, tokens, count):
    tokens = torch.where(active, logits.argmax(dim=1), tokens)
    count = active.sum()
    return tokens, count


def picked_added_up(logits, active, tokens, count):  # right while the count begins at zero
    tokens.copy_(torch.where(active, logits.argmax(dim=1), tokens))
    count += active.sum()
    tokens.masked_fill_(count == 0, -1)


def picked_with_a_branch(logits, active, tokens, count):  # right in every call, L2 in a capture
    tokens.copy_(torch.where(active, logits.argmax(dim=1), tokens))
    count.copy_(active.sum())
    if count == 0:
        tokens.fill_(-1)


def picked_by_numbers(logits, active, tokens, count):  # a count that the host froze
    picked(logits, active, tokens, count)
    count.fill_(sum(active.tolist()))


def picked_with_an_assignment(logits, active, tokens, count):
    picked(logits, active, tokens, count)
    count[0] = torch.tensor(0)
    count.add_(active.sum())


def picked_and_waited(logits, active, tokens, count):
    picked(logits, active, tokens, count)
    torch.cuda.synchronize()


def diagnosed(errors, operation, at=0, by_operation=True):
    rule = rule_of(RuntimeError(errors[at]))
    if rule == UNCLEAR:
        return rule_of_operation(operation if by_operation else None)
    return "elsewhere" if " or " in rule else rule


def warmed(launches, variant=lambda n: (n == 1, n % 16 == 0), key=lambda n: n):
    first = {}
    for kernel, n, tuned in launches:
        first.setdefault((kernel, key(n) if tuned else variant(n)), (kernel, n, tuned))
    return list(first.values())


RIGHT = [
    (exercises.check_pick, picked),
    (exercises.check_diagnose, diagnosed),
    (exercises.check_warm_up, warmed),
]
WRONG = [
    (exercises.check_pick, "breaks L2", picked_with_a_branch),
    (exercises.check_pick, r"tokens is", picked_for_all),
    (exercises.check_pick, r"active \[0, 0, 0, 0, 0, 0\]: tokens", picked_without_the_empty_batch),
    (exercises.check_pick, "tokens is", picked_into_new_tensors),
    (exercises.check_pick, "count is", picked_added_up),
    (exercises.check_pick, "count is|breaks L2", picked_by_numbers),
    (exercises.check_diagnose, "you say 'elsewhere'",  # right while the chain has one error
     lambda errors, operation: diagnosed(errors, operation, at=-1)),
    (exercises.check_diagnose, "this is L2, and you say 'L1'",  # right for all other texts
     lambda errors, operation: diagnosed(errors, operation, by_operation=False)),
    (exercises.check_diagnose, "this is elsewhere",
     lambda errors, operation: diagnosed(errors, operation).replace("elsewhere", "L11")),
    (exercises.check_warm_up, "expected",  # right while each kernel has one kind of n
     lambda launches: warmed(launches, variant=lambda n: 0, key=lambda n: 0)),
    (exercises.check_warm_up, "expected",  # too many: every n once
     lambda launches: warmed(launches, variant=lambda n: n)),
    (exercises.check_warm_up, "expected",  # keys are values, not classes of values
     lambda launches: warmed(launches, key=lambda n: (n == 1, n % 16 == 0))),
    (exercises.check_warm_up, "expected",  # forgets that 1 has a variant of its own
     lambda launches: warmed(launches, variant=lambda n: n % 16 == 0)),
    (exercises.check_warm_up, "expected", lambda launches: warmed(launches)[::-1]),
]


@pytest.mark.parametrize("checker, answer", RIGHT)
def test_the_solution_passes(checker, answer, capsys):
    checker(answer)
    assert capsys.readouterr().out.startswith(("passed", "right values, also replayed"))


@pytest.mark.parametrize("checker, message, answer", WRONG)
def test_a_wrong_answer_is_refused_and_told_why(checker, message, answer, capsys):
    with pytest.raises(AssertionError, match=message):
        checker(answer)
    assert capsys.readouterr().out == ""


def test_the_step_to_repair_has_right_values_and_is_refused():
    with pytest.raises(AssertionError, match="right values, but it breaks L2"):
        exercises.check_pick(functions_of(CHAPTER)["broken_pick"])


@pytest.mark.gpu
@pytest.mark.parametrize("rule, answer", [("L3", picked_with_an_assignment), ("L1", picked_and_waited)])
def test_a_step_that_waits_is_refused_on_a_gpu(rule, answer):
    with pytest.raises(AssertionError, match=f"a capture refuses it, {rule}"):
        exercises.check_pick(answer)


def test_the_texts_are_those_that_the_package_names():
    for first, operation, rule in FIRST_ERRORS:
        assert diagnosed([first], operation) == rule
