"""How a program finds its tile, against a loop over the segments."""

import random

import pytest
import torch

pytest.importorskip("lorakit.ops", reason="Triton is published for Linux only", exc_type=ImportError)

import triton
import triton.language as tl
from batches import DEVICE
from lorakit.kernels.find import tile_of

pytestmark = pytest.mark.kernels


@triton.jit
def find_kernel(found, seg_indptr, weight_indices, num_segments, max_len, BLOCK_T: tl.constexpr,
                BLOCK: tl.constexpr):
    tile = tl.program_id(0)
    slot, first, end = tile_of(tile, seg_indptr, weight_indices, num_segments, max_len, BLOCK_T, BLOCK)
    tl.store(found + 3 * tile, slot)
    tl.store(found + 3 * tile + 1, first)
    tl.store(found + 3 * tile + 2, end)


def ints(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


@pytest.mark.parametrize("segments, block", [
    (0, 2), (1, 2), (2, 2), (4, 4), (4, 8), (7, 8), (8, 8),  # loads all at once
    (0, 16), (1, 16), (8, 16), (16, 16), (19, 16), (32, 16)])  # a scan
def test_every_tile_is_found_and_none_beyond(segments, block):
    rng = random.Random(segments)
    for max_len in (2**31 - 1, 20, 3):
        lens = [rng.choice([0, 0, 1, 7, 8, 9, 30]) for _ in range(segments)]
        slots = [rng.randint(-1, 5) for _ in range(segments)]
        starts = [0]
        tiles = []
        for slot, length in zip(slots, lens):
            end = starts[-1] + min(length, max_len)
            tiles += [[slot, first, end] for first in range(starts[-1], end, 8)]
            starts.append(starts[-1] + length)
        # what lies behind the segments is of another step
        seg_indptr, weight_indices = ints(starts + [9999] * 16), ints(slots + [3] * 16)
        found = torch.full((len(tiles) + 3, 3), -7, dtype=torch.int32, device=DEVICE)
        find_kernel[(len(found),)](found, seg_indptr, weight_indices, segments, max_len, BLOCK_T=8,
                                   BLOCK=block)
        assert found[:len(tiles)].tolist() == tiles, max_len
        assert all(slot == -1 and first == end for slot, first, end in found[len(tiles):].tolist())
