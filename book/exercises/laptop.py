"""Checkers for the exercises of *Catch it before the GPU does*, and below them what its comparisons need."""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from book.exercises.common import batches
from lorakit import NO_ADAPTER
from lorakit.capture import Host, lint

DOORS = {  # line -> whether a capture refuses it, by what the upper door can hear
    "x.numpy()": True, "x[0:2].numpy()": True, "x.cpu()": True, "(x * 2).cpu()": True,
    "y[[0, 2]].add_(1)": True, "y[[0, 2]] = x[0:2]": True, "m[:, [0, 2]].add_(1)": True,
    "pin.numpy()": False, "pin.cpu()": False, "pin[[0, 2]]": False, "y[idx] = x[idx]": False,
    "m[0, 0:2] = x[0:2]": False, "x[0:1] = 0": False, "x.tolist()": True, "x[mask]": True,
}


def check_doors(kind: type) -> None:
    """*Catch it before the GPU does*: a small lint that hears more at the upper door.

    `kind` is made with the device tensors, is a context manager, and has a list `found`.
    """
    for line, refused in DOORS.items():
        *device, pin = given = inputs()
        wanted = inputs()
        step_of(line)(*wanted)
        mini = kind(*device)
        with mini:
            step_of(line)(*given)
        assert all(map(torch.equal, given, wanted)), f"`{line}` gives something else inside of your lint"
        where = "" if "pin" not in line else "; pin lies on the host"
        assert bool(mini.found) == refused, (
            f"`{line}` is {'refused' if refused else 'taken'} by a capture{where}, and you found {mini.found}")
    print("passed")


def step_to_repair(logits: torch.Tensor, slots: torch.Tensor, scalings: torch.Tensor,
                   picked: torch.Tensor, counts: torch.Tensor) -> None:
    """The decode step of the second exercise, as it stands in the chapter: five lines are refused."""
    scale = [scalings[slot].item() if slot >= 0 else 1.0 for slot in slots.tolist()]
    scores = logits * torch.tensor(scale, device=logits.device)[:, None]
    if scores.isnan().any():
        scores = scores.masked_fill(scores.isnan(), 0.0)
    picked.copy_(scores.argmax(dim=1))
    picked[0] = 0
    counts.copy_(torch.bincount(slots[slots >= 0], minlength=len(counts)))


def check_repair(step: Callable[..., None]) -> None:
    """*Catch it before the GPU does*: a decode step that `lint` finds clean, with the same results."""
    def example(slots: list[int], number: int) -> tuple[torch.Tensor, ...]:
        slots = (slots + [NO_ADAPTER] * 12)[:12]
        logits = torch.randn(12, 5, generator=torch.Generator().manual_seed(number))
        logits[number % 12, 1:3] = float("nan") if number % 2 else -9.0
        scalings = torch.tensor([1.0, -1.0, 0.5, -2.0]) * (1 + number % 3)
        return (logits, torch.tensor(slots), scalings, torch.full((12,), 77), torch.full((4,), 77))

    for number, slots in enumerate(batches()):
        wanted, found = example(slots, number), example(slots, number)
        step_to_repair(*wanted)
        step(*found)
        for name, ours, theirs in zip(("picked", "counts"), wanted[3:], found[3:]):
            assert torch.equal(ours, theirs), (
                f"slots {slots}, batch {number}: {name} is {theirs.tolist()}, not {ours.tolist()}")
    examples = [example(slots, number) for number, slots in enumerate(batches())]
    for one, two in itertools.pairwise(examples):
        report = lint(step, *one, other=two)
        assert not report.breaks and not report.frozen, f"right values, but:\n{report}"
    print("passed")


FIRST = [0, 0, NO_ADAPTER]


def step_with_two_faults(slots: list[int], x: torch.Tensor, y: torch.Tensor) -> None:
    """The step of the third exercise, as it stands in the chapter."""
    rows = -(-len(slots) // 4) * 4  # a multiple of four
    h = x[:rows] * 2
    if len({slot for slot in slots if slot >= 0}) > 1:  # several adapters
        h.add_(1)
    y[:rows].copy_(h)


def check_second_batch(other: list[int]) -> None:
    """*Catch it before the GPU does*: a second batch with which `lint` names both faults."""
    assert isinstance(other, list) and all(type(slot) is int and -1 <= slot < 4 for slot in other), (
        f"expected a list of slots, each from -1 to 3, got {other!r}")
    assert 1 <= len(other) <= 8, f"expected 1 to 8 tokens, as many as the buffers hold, got {len(other)}"
    x, y = torch.ones(8, 2), torch.zeros(8, 2)
    report = lint(step_with_two_faults, FIRST, x, y, other=(other, x, y))
    named = {finding.rule for finding in report.frozen}
    missing = {"S3", "S4"} - named
    assert not missing, (f"with {other} lint names {' and '.join(sorted(named)) or 'nothing'}: "
                         f"{' and '.join(sorted(missing))} cannot show")
    print("passed")


# -- the chapter's comparisons ----------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parent.parent.parent


def step_of(line: str) -> Callable[..., None]:
    """A function of what `inputs` gives that runs one line of Python."""
    names: dict[str, object] = {"torch": torch, "F": torch.nn.functional}
    exec(f"def step(x, y, m, mask, idx, pin):\n    {line}", names)
    return names["step"]


def inputs() -> list[torch.Tensor]:
    """x, y, m, mask and idx, which stand for device tensors, and pin, for a pinned host buffer."""
    mask, idx = torch.tensor([True, False] * 3), torch.tensor([0, 2, 4])
    return [torch.arange(6.0), torch.zeros(6), torch.ones(2, 6), mask, idx, torch.ones(6)]


def by_lint(line: str) -> str:
    """The rules that `lint` says are broken, or 'taken'."""
    *device, pin = inputs()
    report = lint(step_of(line), *device, Host(pin, pinned=True))
    return " ".join(dict.fromkeys(finding.rule for finding in report.breaks)) or "taken"


def compare(lines: list[str], kind: type) -> None:
    """Print the verdicts of a small lint of that kind, and of `lint`; a star where they differ."""
    for line in lines:
        *device, pin = inputs()
        mini = kind(*device)
        with mini:
            step_of(line)(*device, pin)
        small, large = "refused" if mini.found else "taken", by_lint(line)
        sign = " " if (small == "taken") == (large == "taken") else "*"
        print(f"{sign} {line:48} {small:8} {large}")


LINT_ALL = """
import json
from benchmarks.capture_snippets import agrees
with open("benchmarks/results/capture_snippets.json") as file:
    cases = [case for case in json.load(file)["cases"] if "captured" in case]
for case in cases:
    print(json.dumps([case["set"], case["captured"], agrees(case), case["sync_debug"] != case["captured"]]))
"""


def verdicts() -> dict[str, list[tuple[bool, bool, bool]]]:
    """Set of snippets -> for each, whether the GPU captured it, whether `lint` says so here, and whether
    PyTorch's sync debug mode did. In a process of its own, where snippets may warn."""
    said = subprocess.run([sys.executable, "-c", LINT_ALL], cwd=ROOT, text=True, check=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    found: dict[str, list[tuple[bool, bool, bool]]] = {}
    for line in said.splitlines():
        which, *row = json.loads(line)
        found.setdefault(which, []).append(tuple(row))
    return found
