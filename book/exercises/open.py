"""Checkers for the exercises of *Garbled, cause unknown*."""

from collections.abc import Callable

import torch

from book import lineup, suspects
from book.exercises.one_layer import Asks
from book.exercises.silent_rules import Replays
from lorakit import runtime

SEALED = {"A": "Group", "B": "Recycled", "C": "Early"}


def sealed(name: str) -> type[lineup.Server]:
    """*Garbled, cause unknown*: one of three broken servers. Its class name tells nothing."""
    return type("Sealed", (getattr(suspects, SEALED[name]),), {"__module__": "sealed"})


def check_sealed(**answers: str) -> None:
    """*Garbled, cause unknown*: who is behind each of the three."""
    known = {name.lower(): name for name in lineup.SIGNATURES}
    for letter, culprit in SEALED.items():
        answer = known.get(str(answers.get(letter)).lower())
        assert answer, f"{letter}: {answers.get(letter)!r} is not among {', '.join(known.values())}"
        for experiment, outcome in lineup.SIGNATURES[culprit].items():
            would = lineup.SIGNATURES[answer][experiment]
            assert outcome == would, (f"{letter} is not {answer}: {experiment}, {answer} gives "
                                      f"{would!r}, and {letter} gives {outcome!r}")
    print("passed")


def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def root(x: torch.Tensor) -> torch.Tensor:
    return x.sqrt()  # NaN where x is negative


def by_row(x: torch.Tensor) -> torch.Tensor:
    return x / x.abs().amax(dim=1, keepdim=True)


def by_batch(x: torch.Tensor) -> torch.Tensor:
    return x / x.abs().amax()  # of all rows, also of those behind the batch


def overflow(x: torch.Tensor) -> torch.Tensor:
    return x * 1e38 * 1e38


NAN = float("nan")
CASES = [  # (stages, [(what it is, values of four rows, live rows, expected)])
    ((double, root, by_row), [
        ("only rows behind the batch hold NaN", (4.0, 9.0, NAN, NAN), 2, (False, False, False)),
        ("a live row is negative", (4.0, -1.0, NAN, NAN), 2, (False, True, True)),
        ("a row behind the batch is negative", (4.0, 9.0, 1.0, -1.0), 3, (False, False, False)),
        ("the last live row is negative", (4.0, 9.0, 1.0, -1.0), 4, (False, True, True))]),
    ((double, by_batch, double), [
        ("NaN comes in from behind the batch", (4.0, 9.0, NAN, NAN), 2, (False, True, True)),
        ("nothing is NaN", (4.0, 9.0, 1.0, 1.0), 4, (False, False, False))]),
    ((root, torch.nan_to_num, double), [
        ("a stage takes the NaN away", (4.0, -1.0, 1.0, 1.0), 2, (True, False, False))]),
    ((by_row, overflow, double), [
        ("infinite, and not NaN", (4.0, 9.0, NAN, NAN), 2, (False, False, False)),
        ("NaN from the start", (NAN, 9.0, NAN, NAN), 1, (True, True, True))]),
]


def check_nan_flags(nan_flags: Callable[..., torch.Tensor]) -> None:
    """*Garbled, cause unknown*: a flag for each stage, from inside of a graph."""
    device = runtime.device()
    for stages, batches in CASES:
        x, rows = torch.ones(4, 8, device=device), torch.full((1,), 4, device=device)
        with Asks() as asked:
            first = nan_flags(stages, x, rows)
        assert isinstance(first, torch.Tensor) and first.dtype == torch.bool and first.shape == (3,), (
            f"3 stages: expected a bool tensor of 3 flags, got {first!r}")
        assert not asked.names, f"{sorted(asked.names)} asks the device, and a graph has no host to tell"
        flags = torch.zeros_like(first)
        graph = Replays(lambda: flags.copy_(nan_flags(stages, x, rows)))
        for what, values, live, expected in batches:
            x.fill_(1.0)[:, 5] = torch.tensor(values, device=device)  # one column of a row is enough
            rows.fill_(live)
            graph.run()
            found = tuple(flags.tolist())
            names = ", ".join(stage.__name__ for stage in stages)
            assert found == expected, (f"{names}; {what} ({live} live rows): expected {expected}, "
                                       f"a replay gave {found}")
    print("passed")
