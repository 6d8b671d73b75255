"""The rules for the sizes of tiles."""

import pytest
import torch

from lorakit import StaticLoRABatchInfo
from lorakit.kernels import tiles
from lorakit.kernels.tiles import (
    ceil_div, column_block, column_stages, column_steps, expand_warps, hidden_block, hidden_splits,
    linear_block, linear_splits, most_tiles, one_by_one, one_by_one_shrinks, power_of_two, rank_block,
    route_warps, shrink_blocks, shrink_pieces, shrink_stages, token_block)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("tokens, width", [(1, 16), (256, 64), (257, 16), (4096, 256)])
def test_every_part_of_the_hidden_size_has_a_step_to_do(dtype, tokens, width):
    for hidden in [*range(0, 3000, 7), 1152, 2049, 2560, 3328, 12345]:
        _, _, block_k = shrink_blocks(tokens, 8, width, dtype)
        steps = ceil_div(hidden, block_k)
        for tiles in (1, 10, 1000):
            splits = hidden_splits(hidden, block_k, tokens, width, tiles)
            assert 1 <= splits <= 16
            assert steps == 0 or (splits - 1) * ceil_div(steps, splits) < steps, hidden


def test_parts_grow_with_the_hidden_size_and_shrink_with_the_tiles():
    parts = lambda hidden, width, tiles=100: hidden_splits(hidden, 256, 32, width, tiles)  # noqa: E731
    assert [parts(4096, width) for width in (8, 16, 64, 65, 128)] == [4, 4, 4, 2, 2]
    assert [parts(4096, 16, tiles) for tiles in (1, 15, 16)] == [8, 8, 4]  # two steps a part, then four
    assert [parts(14336, 16, tiles) for tiles in (1, 12, 24, 48, 96)] == [14, 14, 8, 4, 4]
    assert [parts(14336, 128, tiles) for tiles in (0, 48, 96)] == [14, 4, 2]
    assert [hidden_splits(4096, 128, tokens, 16, 1) for tokens in (1024, 1025)] == [4, 2]  # prefill
    assert [hidden_block(dtype) for dtype in (torch.bfloat16, torch.float16, torch.float32)] == [256, 256, 64]


def test_blocks_are_powers_of_two_that_tensor_cores_take():
    for width in range(1, 300):
        block = rank_block(width)
        assert block >= max(16, width) and block & (block - 1) == 0
        for rows, dtype in ((8, torch.float16), (16, torch.bfloat16), (32, torch.bfloat16), (8, torch.float32)):
            columns = column_block(rows, block, 64 * 264, dtype)
            assert 16 <= columns <= (128 if rows == 32 else 256)
            assert columns * block * dtype.itemsize <= 32768
        assert column_block(16, block, 2**30, torch.float16, room=False) <= max(16, 8192 // block)
        assert shrink_blocks(4096, 8, width, torch.float16)[1] in (16, 32, 64)
    assert {token_block(n, 8) for n in range(1, 5000)} == {8, 16, 32}
    assert [route_warps(block) for block in (32, 64, 128, 1024, 2048, 8192)] == [1, 1, 4, 4, 8, 8]


def test_no_batch_needs_more_tiles_than_the_grid_has():
    for lens in ([1] * 9, [0, 0, 33, 1], [16] * 4, [17, 31, 0], [64], [0]):
        batch = StaticLoRABatchInfo.empty(max(1, sum(lens)), len(lens), "cpu")
        assert most_tiles(sum(lens), batch, 16) >= sum(ceil_div(length, 16) for length in lens)


def test_who_goes_one_by_one():
    assert one_by_one(1, 8) and one_by_one(64, 64)  # an adapter each
    assert not one_by_one(32, 8) and not one_by_one(257, 300)  # shared; prefill
    assert one_by_one_shrinks(4096, 16) and not one_by_one_shrinks(4096, 17)  # a tensor core pays
    assert not one_by_one_shrinks(14336, 8)


def test_how_many_tokens_a_tile_takes():
    assert [token_block(tokens, 8) for tokens in (1, 32, 33, 256, 257)] == [8, 8, 16, 16, 32]
    assert [token_block(32, 8, 16, outputs) for outputs in (4096, 28672)] == [8, 8]
    assert [token_block(32, 8, 64, outputs) for outputs in (6144, 28672)] == [8, 16]  # B read too often
    assert [token_block(tokens, 8, 512) for tokens in (32, 4096)] == [8, 16]


def test_a_wide_tile_needs_few_tokens_a_low_rank_and_many_outputs():
    wide = lambda rows, rank, outputs: column_block(rows, rank, outputs, torch.bfloat16)  # noqa: E731
    assert wide(8, 16, 28672 * 12) == 512 == 2 * wide(8, 16, 4096 * 12)
    assert wide(16, 16, 28672 * 12) == 256 == wide(8, 32, 28672 * 12)
    assert [expand_warps(*args) for args in ((512, False), (256, True), (256, False))] == [8, 8, 4]
    assert [column_stages(columns, True) for columns in (512, 256)] == [2, 3]


def test_steps_leave_programs_for_everyone():
    chunks = [112 * tiles for tiles in (1, 3, 10, 24, 1000)]
    assert [column_steps(some, 264, 8) for some in chunks] == [1, 1, 4, 8, 8]
    assert [column_steps(some, 528, 16) for some in chunks] == [1, 1, 2, 5, 16]


def test_a_warp_sums_a_piece_of_its_own_where_ranks_are_few():
    assert (shrink_pieces(1), shrink_pieces(256), shrink_pieces(257)) == (4, 4, 1)
    for dtype in (torch.bfloat16, torch.float32):  # a tensor core takes 16 hidden elements at a time
        assert shrink_blocks(1, 8, 16, dtype)[2] % (4 * 16) == 0


def test_five_steps_need_room_few_programs_and_narrow_slots_or_long_parts(monkeypatch):
    def stages(programs, steps=4, width=32, behind=False):
        return shrink_stages(programs, steps, width, behind, torch.device("cpu"))
    assert stages(1) == 3 and column_stages(256, False) == 2  # an interpreter has no shared memory to fill
    monkeypatch.setattr(tiles, "has_room", lambda device: True)
    assert [stages(264), stages(265), stages(1, behind=True)] == [5, 3, 3] and column_stages(256, True) == 3
    assert [stages(1, width=33), stages(1, width=33, steps=5)] == [3, 5]


def test_the_base_product_is_cut_until_two_programs_a_processor():
    block_n, block_k, _ = linear_block(torch.bfloat16)
    cut = lambda outputs, hidden: linear_splits(outputs, hidden, block_n, block_k)  # noqa: E731
    assert [cut(6144, 4096), cut(4096, 4096), cut(28672, 4096), cut(4096, 14336)] == [2, 2, 1, 4]
    assert cut(64, 1) == 1


def test_power_of_two_and_ceil_div():
    assert [power_of_two(n) for n in (1, 2, 3, 4, 5, 8191, 8192)] == [1, 2, 4, 4, 8, 8192, 8192]
    assert [ceil_div(n, 4) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
