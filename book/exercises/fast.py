"""Checkers for the exercises of *How fast can it go?*, and what its experiments need."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch

from benchmarks.table import layer_sums  # noqa: F401: the chapter takes it from here
from lorakit import NO_ADAPTER

Masks = Callable[[torch.Tensor, int, int], tuple[torch.Tensor, torch.Tensor]]


def check_floor(floor_us: Callable[[list[int], list[int], int, tuple[int, ...], float], float]) -> None:
    """*How fast can it go?*: the byte floor of LoRA for a batch, with two bytes a value."""
    rng = random.Random(51)
    cases = [([0], [16], 4096, (4096,)), ([0, 0, 0, 0], [16], 4096, (4096,)),
             ([0, 1], [16, 64], 4096, (4096,)), ([0, NO_ADAPTER, 0], [16], 4096, (4096,)),
             ([1, 1], [16, 16, 16], 4096, (4096,)), ([0, 1], [16, 16], 4096, (4096, 1024, 1024)),
             ([0, 1], [0, 8], 14336, (4096,)), ([NO_ADAPTER], [8], 4096, (4096,))]
    for _ in range(40):
        ranks = rng.choices((0, 4, 8, 16, 64), k=rng.randint(1, 8))
        slots = rng.choices(range(-1, len(ranks)), k=rng.randint(1, 32))
        cases.append((slots, ranks, rng.choice((2049, 4096)), rng.choice(((4096,), (40, 24, 24), (9, 9)))))
    for slots, ranks, hidden, sizes in cases:
        working = [slot for slot in slots if slot != NO_ADAPTER and ranks[slot] > 0]
        values = sum(ranks[slot] for slot in set(working)) * (len(sizes) * hidden + sum(sizes))
        values += len(working) * (hidden + 2 * sum(sizes))
        for rate in (2.0, 4e6):
            found, wanted = floor_us(list(slots), list(ranks), hidden, sizes, rate), 2 * values / rate
            assert math.isclose(found, wanted, rel_tol=1e-9, abs_tol=1e-12), (
                f"slots {slots}, ranks {ranks}, {hidden} to {sizes}: {2 * values} bytes must move, "
                f"you have {found * rate:.0f}")
    print("passed")


def check_early(early: Callable[[list[tuple[set[str], bool]], list[str]], Sequence[str]]) -> None:
    """*How fast can it go?*: which loads of a kernel may stand before its wait.

    A kernel that came before is early if it signals before it waits.
    """
    shrink, product, behind = ({"h"}, False), ({"out"}, False), ({"h"}, True)
    cases = [([product, shrink], ["seg_indptr", "B", "out", "h"]), ([product], ["seg_indptr", "A", "x"]),
             ([({"y"}, False), behind], ["seg_indptr", "B", "y", "h"]),
             ([({"x"}, False), ({"y"}, True), behind], ["B", "x", "y", "h"]),
             ([({"x"}, False), ({"y"}, False), behind], ["B", "x", "y", "h"]), ([], ["seg_indptr", "x"]),
             ([({"seg_indptr", "permutation"}, False)], ["seg_indptr", "permutation", "B"])]
    rng, names = random.Random(7), ["a", "b", "c", "d", "e", "f"]
    for _ in range(60):
        before = [(set(rng.sample(names, rng.randint(1, 2))), rng.random() < 0.5)
                  for _ in range(rng.randint(1, 4))]
        before[0] = before[0][0], False
        cases.append((before, rng.sample(names, rng.randint(1, 5))))
    for before, loads in cases:
        running = set()
        for writes, is_early in reversed(before):
            running |= writes
            if not is_early:
                break
        said = ", ".join(f"{'early ' if is_early else ''}kernel writes {sorted(writes)}"
                         for writes, is_early in before)
        given = f"{said or 'no kernel before'}; loads {loads}"
        found = set(early([(set(writes), is_early) for writes, is_early in before], list(loads)))
        for name in loads:
            assert name not in found or name not in running, (
                f"{given}: {name!r} may still be written, and must be loaded after the wait")
            assert name in found or name in running, (
                f"{given}: {name!r} is there already, and may be loaded before the wait")
        assert found <= set(loads), f"{given}: {sorted(found - set(loads))} is not among the loads"
    print("passed")


def check_masks(masks: Masks) -> None:
    """*How fast can it go?*: what to load of a row of B, and what to use of it."""
    for width in (16, 8, 12, 24, 64):
        ranks = torch.arange(max(16, 1 << (width - 1).bit_length()))
        for rank in range(width + 1):
            given = f"rank {rank} in a slot of width {width}"
            is_read, is_used = masks(ranks, rank, width)
            for name, mask in (("is_read", is_read), ("is_used", is_used)):
                assert mask.dtype == torch.bool and mask.shape == ranks.shape, (
                    f"{given}: {name} must be {len(ranks)} truth values")
            past = (is_read & (ranks >= width)).nonzero()[:, 0].tolist()
            assert not past, f"{given}: place {past[:1]} is read, and belongs to the next row"
            row = torch.where(ranks < rank, ranks + 1.0, float("nan"))  # what lies in memory
            found = torch.where(is_used, torch.where(is_read, row, 0.0), 0.0)
            assert not found.isnan().any(), (
                f"{given}: NaN of rank {found.isnan().nonzero()[0].item()} reaches the product")
            lost = (found != torch.where(ranks < rank, row, 0.0)).nonzero()[:, 0].tolist()
            assert not lost, f"{given}: rank {lost[0]} does not reach the product"
            for group in range(0, width - 7, 8):
                read = is_read[group:group + 8]
                assert read.all() or not read.any(), (
                    f"{given}: ranks {group} to {group + 7} are read in part, so no load of 16 bytes can "
                    "take them")
                assert group < rank or not read.any(), (
                    f"{given}: ranks {group} to {group + 7} are read, and none of them is used")
    print("passed")


# -- what the experiments need --------------------------------------------------------------------------

@contextmanager
def replaced(value: object, *names: str) -> Iterator[None]:
    """Let these functions of lorakit ("kernels.expand.column_steps") return `value`."""
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(mock.patch(f"lorakit.{name}", return_value=value))
        yield
