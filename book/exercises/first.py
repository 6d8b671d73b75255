"""Checkers for the exercises of *Whoever came first*."""

import random
from collections.abc import Callable

from book import detective

SMALL = 8  # the longest batch of the smaller of two sizes
MAX_LORAS = 4


class Counting:
    """A kernel that counts how often Triton is asked to find a variant of it."""

    def __init__(self, kernel: object) -> None:
        self.kernel, self.asked = kernel, 0

    def __getitem__(self, grid: tuple) -> Callable:
        self.asked += 1
        return self.kernel[grid]


def check_first(make_server: Callable[[], object]) -> None:
    """*Whoever came first*: a server whose answers do not depend on which batch came first."""
    rng, mixed = random.Random(304), [[2, 0, 1, 3], [1, 3], [0, 1, 2, 3] * 3, [3, 2, 1, 0, 1]]
    firsts = [[2], [0] * 5, [1] * 12, [3, 1], [0, 1, 2, 3], [0, 1, 2, 3] * 4]
    for first in firsts:
        server = make_server()
        server.kernel = Counting(server.kernel)
        history = [first, *mixed, [2] * 12, *rng.sample(mixed, k=4), first] * 2
        for number, adapters in enumerate(history):
            got, right = server.serve(list(adapters)), detective.expected(adapters)
            assert got == right, (f"new server, first batch {first}: batch {number}, adapters {adapters}, "
                                  f"got {got}, not {right}")
        most = 2 * MAX_LORAS  # two sizes of batches, for each number of adapters
        assert server.kernel.asked <= most, (
            f"right, but Triton was asked for a variant in {server.kernel.asked} of {len(history)} "
            "batches: keep what it compiled")
    print("passed")


# -- toy servers without a GPU: serve(batch) -> a list ---------------------------------------------------

class Clean:
    """Always right."""

    def __init__(self) -> None:
        self.first: list[int] | None = None
        self.before: list[int] = []

    def serve(self, batch: list[int]) -> list[int]:
        self.first = list(batch) if self.first is None else self.first
        answer = self.answer(list(batch))
        self.before = list(batch)
        return answer

    def answer(self, batch: list[int]) -> list[int]:
        return detective.expected(batch)


class Wrong(Clean):
    """Ignores adapter 0, whatever came before: a fault, and no memory."""

    def answer(self, batch: list[int]) -> list[int]:
        return [0 if adapter == 0 else 10 * (adapter + 1) for adapter in batch]


class KeepsOne(Clean):
    """Serves one adapter for ever, if the first batch had one: the case of this page."""

    def answer(self, batch: list[int]) -> list[int]:
        alone = set(self.first) if len(set(self.first)) == 1 else set(batch)
        return [right if adapter in alone else 0 for adapter, right in zip(batch, detective.expected(batch))]


class KeepsLength(Clean):
    """Serves as many rows as the first batch had."""

    def answer(self, batch: list[int]) -> list[int]:
        right = detective.expected(batch)
        return [value if row < len(self.first) else 0 for row, value in enumerate(right)]


class KeepsTail(Clean):
    """Adds what the batch before left in the row behind this one's last."""

    def answer(self, batch: list[int]) -> list[int]:
        right = detective.expected(batch)
        tail = self.before[len(batch):]
        return [*right[:-1], right[-1] + (10 * (tail[0] + 1) if tail else 0)]


BATCHES = [[0, 1, 2, 0], [1, 2], [2], [2, 1, 2], [1]]


def check_remembers(remembers: Callable[[Callable[[], object], list], list]) -> None:
    """*Whoever came first*: find every pair of batches of which the first changes what the second gets."""
    for fault in (Clean, Wrong, KeepsOne, KeepsLength, KeepsTail):
        for batches in (BATCHES, BATCHES[::-1]):
            alone = [fault().serve(batch) for batch in batches]
            right = []
            for first in batches:
                for later, answer in zip(batches, alone):
                    server = fault()
                    server.serve(first)
                    if server.serve(later) != answer:
                        right.append((first, later))
            found = [(list(first), list(later)) for first, later in remembers(fault, list(batches))]
            named = (fault.__doc__ or "").split(":")[0].rstrip(".")
            for pair in found:
                assert pair in right, f"server {fault.__name__} ({named}): {pair} changes nothing"
            for pair in right:
                assert pair in found, f"server {fault.__name__} ({named}): {pair} was not found"
    print("passed")
