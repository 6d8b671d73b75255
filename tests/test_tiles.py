"""The rules for the sizes of tiles."""

import pytest
import torch

from lorakit.kernels.tiles import (
    ceil_div, hidden_block, hidden_splits, power_of_two, rank_block, route_warps, token_block)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_every_part_of_the_hidden_size_has_a_step_to_do(dtype):
    block_k = hidden_block(dtype)
    for hidden in [*range(0, 3000, 7), 1152, 2049, 2560, 3328, 12345]:
        splits, steps = hidden_splits(hidden, block_k, max_len=32), ceil_div(hidden, block_k)
        assert 1 <= splits <= 8
        assert steps == 0 or (splits - 1) * ceil_div(steps, splits) < steps, hidden
        assert hidden_splits(hidden, block_k, max_len=257) == 1
    assert [hidden_splits(hidden, block_k, 32) for hidden in (4096, 11008, 14336)] == [8, 8, 8]


def test_blocks_are_powers_of_two_that_tensor_cores_take():
    for width in range(1, 300):
        assert rank_block(width) in (16, 32, 64) and rank_block(width) >= min(width, 64)
    assert {token_block(n) for n in range(1, 5000)} == {16, 64}
    assert [route_warps(block) for block in (32, 64, 128, 1024, 2048, 8192)] == [1, 1, 4, 4, 8, 8]


def test_power_of_two_and_ceil_div():
    assert [power_of_two(n) for n in (1, 2, 3, 4, 5, 8191, 8192)] == [1, 2, 4, 4, 8, 8192, 8192]
    assert [ceil_div(n, 4) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
