"""The checkers of *Garbled, cause unknown* pass the solutions and refuse wrong answers."""

import pytest
import torch

from book import exercises, lineup
from book.exercises.open import SEALED
from lorakit import runtime


def masked(stages, x, rows):
    live = torch.arange(len(x), device=x.device) < rows
    flags = []
    for stage in stages:
        x = stage(x)
        flags.append((x.isnan().any(dim=1) & live).any())
    return torch.stack(flags)


def unequal(stages, x, rows):
    """Another right one: NaN is what is not equal to itself."""
    live, outputs = torch.arange(len(x), device=x.device) < rows, [x]
    for stage in stages:
        outputs.append(stage(outputs[-1]))
    flags = torch.stack([(y != y).any(dim=1) for y in outputs[1:]])
    return torch.where(live, flags, False).any(dim=1)


def whole(stages, x, rows):  # the test that everybody writes first
    flags = []
    for stage in stages:
        x = stage(x)
        flags.append(x.isnan().any())
    return torch.stack(flags)


def cut(stages, x, rows):  # right values in every eager test
    n, flags = int(rows), []
    for stage in stages:
        x = stage(x)
        flags.append(x[:n].isnan().any())
    return torch.stack(flags)


def cut_before(stages, x, rows):  # by_batch has no rows behind the batch then
    live = (torch.arange(len(x), device=x.device) < rows)[:, None]
    return masked(stages, torch.where(live, x, 1.0), rows)


def multiplied(stages, x, rows):  # NaN times zero
    live = (torch.arange(len(x), device=x.device) < rows)[:, None]
    flags = []
    for stage in stages:
        x = stage(x)
        flags.append((x * live).isnan().any())
    return torch.stack(flags)


def not_finite(stages, x, rows):
    live = torch.arange(len(x), device=x.device) < rows
    flags = []
    for stage in stages:
        x = stage(x)
        flags.append((~x.isfinite().all(dim=1) & live).any())
    return torch.stack(flags)


def of_inputs(stages, x, rows):
    live = torch.arange(len(x), device=x.device) < rows
    flags = []
    for stage in stages:
        flags.append((x.isnan().any(dim=1) & live).any())
        x = stage(x)
    return torch.stack(flags)


def as_list(stages, x, rows):
    return masked(stages, x, rows).tolist()


@pytest.mark.parametrize("answer", [masked, unequal])
def test_right_flags_pass(answer, capsys):
    exercises.check_nan_flags(answer)
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.parametrize("answer, message", [
    (whole, "only rows behind the batch hold NaN .* expected .False, False, False., a replay gave"),
    (cut, "asks the device"),
    (cut_before, "NaN comes in from behind the batch"),
    (multiplied, "only rows behind the batch hold NaN"),
    (not_finite, "infinite, and not NaN"),
    (of_inputs, "a live row is negative"),
    (as_list, "expected a bool tensor of 3 flags"),
])
def test_wrong_flags_are_refused(answer, message, capsys):
    with pytest.raises(AssertionError, match=message):
        exercises.check_nan_flags(answer)
    assert capsys.readouterr().out == ""


def test_the_right_culprits_pass(capsys):
    exercises.check_sealed(**SEALED)
    exercises.check_sealed(**{letter: name.lower() for letter, name in SEALED.items()})
    assert capsys.readouterr().out == "passed\n" * 2


@pytest.mark.parametrize("letter, wrong", [(letter, name) for letter, right in SEALED.items()
                                           for name in lineup.SIGNATURES if name != right])
def test_a_wrong_culprit_is_refused_with_an_experiment_that_speaks_against_it(letter, wrong, capsys):
    with pytest.raises(AssertionError, match=f"{letter} is not {wrong}: "):
        exercises.check_sealed(**SEALED | {letter: wrong})
    assert capsys.readouterr().out == ""


def test_a_culprit_that_the_obvious_experiments_do_not_rule_out():
    """Grid passes for A as it is, without graphs, and for one adapter."""
    with pytest.raises(AssertionError, match="no base rows, Grid gives 'base', and A gives 'right'"):
        exercises.check_sealed(**SEALED | {"A": "Grid"})


def test_a_missing_or_an_unknown_culprit_is_named():
    with pytest.raises(AssertionError, match="B: None is not among Grid, Group"):
        exercises.check_sealed(A=SEALED["A"])
    with pytest.raises(AssertionError, match="C: 'Server' is not among"):
        exercises.check_sealed(**SEALED | {"C": "Server"})


def test_a_sealed_server_keeps_its_secret_and_the_protocol():
    for letter in SEALED:
        server = exercises.sealed(letter)
        assert server.__name__ == "Sealed" and SEALED[letter] not in repr(server)
        assert server.__doc__ is None
        assert issubclass(server, lineup.Server)


@pytest.mark.skipif(runtime.device().type == "cuda", reason="there it is measured")
@pytest.mark.parametrize("letter", SEALED)
def test_without_a_gpu_a_sealed_server_has_the_recorded_signature(letter):
    server = exercises.sealed(letter)
    for experiment in lineup.EXPERIMENTS:
        assert lineup.tried(server, experiment) == lineup.SIGNATURES[SEALED[letter]][experiment]
