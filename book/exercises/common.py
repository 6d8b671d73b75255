"""Batches that the checkers try."""

import random

from lorakit import NO_ADAPTER


def batches(max_loras: int = 4) -> list[list[int]]:
    """Slots of a few small batches: the chapter's own, the corners, and random ones."""
    rng = random.Random(7)
    fixed = [[1, 0, NO_ADAPTER, 2, 0, 1], [3], [NO_ADAPTER], [1] * 5, [2, 1, 0]]
    return fixed + [rng.choices(range(-1, max_loras), k=rng.randint(1, 12)) for _ in range(20)]
