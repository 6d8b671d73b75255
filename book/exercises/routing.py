"""Checkers for the exercises of *Routing on the device*."""

import itertools
from collections.abc import Callable

import torch

from lorakit import reference, runtime, slots_to_device
from book.exercises.common import batches


def check_place_of(place_of: Callable[[list[int], int, int], int]) -> None:
    """*Routing on the device*: the place of one token by two counts."""
    for slots in batches():
        permutation = reference.route_by_adapter(slots, 4)["permutation"]
        for token, slot in enumerate(slots):
            found, expected = place_of(list(slots), token, 4), permutation.index(token)
            assert found == expected, (
                f"slots {slots}: token {token}, slot {slot}, belongs to place {expected}, got {found}")
    print("passed")


def check_permutation(permutation_of: Callable[[torch.Tensor, int], torch.Tensor]) -> None:
    """*Routing on the device*: a stable permutation from a kernel, several times over."""
    device = runtime.device()
    for slots in batches() + [[token % 3 - 1 for token in range(33)]]:
        expected = reference.route_by_adapter(slots, 4)["permutation"]
        for _ in range(5 if device.type == "cuda" else 1):
            found = permutation_of(slots_to_device(slots, 4, device), 4).tolist()
            assert found == expected, f"slots {slots}: expected {expected}, got {found}"
    print("passed")


def check_tile_table(tile_table: Callable[[list[int], int, int], list]) -> None:
    """*Routing on the device*: the live tiles of a batch, in a table of fixed length."""
    for slots, block in itertools.product(batches(), (1, 2, 4, 16)):
        routed = reference.route_by_adapter(slots, 4)
        lens, bounds = routed["seg_lens"], routed["seg_indptr"]
        live = [(segment, first) for segment in range(4)
                for first in range(bounds[segment], bounds[segment + 1], block)]
        room = len(slots) // block + 4
        found = [tuple(pair) for pair in tile_table(list(lens), block, room)]
        given = f"seg_lens {lens}, block {block}"
        assert len(found) == room, f"{given}: expected {room} pairs, got {len(found)}"
        assert found[:len(live)] == live, f"{given}: expected {live} first, got {found}"
        assert set(found[len(live):]) <= {(-1, 0)}, f"{given}: the rest must be (-1, 0): {found}"
    print("passed")
