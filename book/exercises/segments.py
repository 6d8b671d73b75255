"""Checkers for the exercises of *From requests to segments*."""

import itertools
from collections.abc import Callable

from lorakit import reference
from book.exercises.common import batches


def check_to_places(to_places: Callable[[list[int]], list[int]]) -> None:
    """*From requests to segments*: from place -> token to token -> place."""
    for slots in batches():
        permutation = reference.route_by_adapter(slots, 4)["permutation"]
        places = list(to_places(list(permutation)))
        expected = [permutation.index(token) for token in range(len(slots))]
        assert places == expected, (
            f"permutation {permutation}: expected places {expected}, got {places}")
    print("passed")


def check_seg_indptr(seg_indptr_of: Callable[[list[int], int], list[int]]) -> None:
    """*From requests to segments*: bounds by counting, without a sort."""
    for slots in batches():
        expected = reference.route_by_adapter(slots, 4)["seg_indptr"]
        found = list(seg_indptr_of(list(slots), 4))
        assert found == expected, f"slots {slots}: expected {expected}, got {found}"
    print("passed")


def check_chunks(chunk: Callable[[list[int], int], list[int]]) -> None:
    """*From requests to segments*: cut long segments so that none is above a limit."""
    for slots, limit in itertools.product(batches(), (1, 2, 3, 16)):
        seg_indptr = reference.route_by_adapter(slots, 4)["seg_indptr"]
        found = list(chunk(list(seg_indptr), limit))
        given = f"seg_indptr {seg_indptr}, limit {limit}"
        assert found[:1] == [0] and found[-1] == seg_indptr[-1], (
            f"{given}: the ends must stay, got {found}")
        assert set(seg_indptr) <= set(found), f"{given}: a bound is lost in {found}"
        assert all(0 < b - a <= limit for a, b in zip(found, found[1:])), (
            f"{given}: every piece must hold 1 to {limit} tokens, got {found}")
        fewest = sum(-(-(b - a) // limit) for a, b in zip(seg_indptr, seg_indptr[1:]))
        assert len(found) - 1 == fewest, f"{given}: {fewest} pieces are enough, got {found}"
    print("passed")
