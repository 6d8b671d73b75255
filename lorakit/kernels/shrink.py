"""Shrink: h = x A^T, from the hidden size down to the rank, each token by its own adapter."""

import torch
import triton
import triton.language as tl

from lorakit.batch import LoRABatchInfo
from lorakit.kernels.find import leave, tile_of
from lorakit.kernels.tiles import (
    ceil_div, dot_precision, hidden_splits, most_tiles, pdl_options, segment_block,
    shrink_blocks, shrink_pieces, shrink_stages)
from lorakit.kernels.workspace import scratch


@triton.jit(do_not_specialize=["num_tokens", "num_segments", "max_len"])  # one for all batch sizes
def shrink_kernel(
    x,                         # (num_tokens, K), row-major
    lora_a,                    # (max_loras, num_slices, R, K), row-major
    h,                         # (SPLITS, num_tokens, num_slices, R) float32, written
    seg_indptr,                # (num_segments + 1,) int32
    weight_indices,            # (num_segments,) int32, slot of each segment
    lora_ranks,                # (max_loras,) int32
    permutation,               # (num_tokens,) int32, read only if PERMUTED
    num_tokens,                # rows of x and of h
    max_loras,                 # slots in lora_a; another slot is no adapter
    K,                         # hidden size
    R,                         # width of a slot: the largest rank it can hold
    SPLITS: tl.constexpr,      # parts that K is cut into, each summed by its own program
    NUM_SLICES: tl.constexpr,  # stacked projections: 3 for q, k, v
    PERMUTED: tl.constexpr,    # tokens are reached through permutation
    PRECISION: tl.constexpr,   # of a float32 product; a 16-bit one is exact, the sum is float32
    BLOCK_T: tl.constexpr,     # tokens of a tile
    BLOCK_R: tl.constexpr,     # ranks of a tile
    BLOCK_K: tl.constexpr,     # hidden elements of one step of the loop
    num_segments=0,            # read if BLOCK_SEGMENTS
    max_len=0,                 # tokens of a segment past it get no LoRA; read if BLOCK_SEGMENTS
    BLOCK_SEGMENTS: tl.constexpr = 0,  # segments looked through at once, or 0: see tiles.py
    PDL: tl.constexpr = False,   # start while the kernel before ends; let the next one start too
    BEHIND: tl.constexpr = False,  # that kernel is `linear`, which has waited, and runs beside this one
    PIECES: tl.constexpr = 1,    # of a step, each summed by a warp of its own; if 1, by all warps together
    EVEN: tl.constexpr = False,  # BLOCK_K divides K
):
    # One program: BLOCK_T tokens of one segment, BLOCK_R ranks of one slice, one part of K.
    if PDL & (not BEHIND):
        tl.extra.cuda.gdc_wait()  # launched early, it reads nothing before all earlier work is done
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    if BLOCK_SEGMENTS == 0:  # a grid of tiles of a segment, parts and segments
        tile_part = tl.program_id(1)
        segment = tl.program_id(2)
        slot = tl.load(weight_indices + segment)
        first = tl.load(seg_indptr + segment) + tl.program_id(0) * BLOCK_T
        end = tl.load(seg_indptr + segment + 1)
    else:  # a grid of parts and tiles, which has no program for what a short segment lacks
        tile_part = tl.program_id(0)
        slot, first, end = tile_of(tl.program_id(1), seg_indptr, weight_indices, num_segments, max_len,
                                   BLOCK_T, BLOCK_SEGMENTS)
    # The grid has room for any batch of as many tokens; this one may need fewer tiles.
    if (first >= end) | (slot < 0) | (slot >= max_loras):
        leave(PDL & BEHIND)
        return
    places = first + tl.arange(0, BLOCK_T)
    is_token = places < end
    tokens = tl.load(permutation + places, mask=is_token, other=0) if PERMUTED else places
    rank = tl.minimum(tl.load(lora_ranks + slot), R)
    split = tile_part % SPLITS
    slice_id = tile_part // SPLITS % NUM_SLICES
    rank_tile = tile_part // (SPLITS * NUM_SLICES)
    if rank_tile * BLOCK_R >= rank:
        leave(PDL & BEHIND)
        return

    is_token &= (tokens >= 0) & (tokens < num_tokens)  # a batch of another step must not corrupt
    tokens = tokens.to(tl.int64)
    ranks = rank_tile * BLOCK_R + tl.arange(0, BLOCK_R)
    is_rank = ranks < rank  # rows from `rank` on belong to nobody and may hold NaN
    x_rows = x + tokens[:, None] * K
    a_rows = lora_a + ((slot.to(tl.int64) * NUM_SLICES + slice_id) * R + ranks[:, None]) * K
    is_x, is_a = is_token[:, None], is_rank[:, None]
    if PIECES == 1:
        columns = tl.arange(0, BLOCK_K)[None, :]
        acc = tl.zeros((BLOCK_T, BLOCK_R), dtype=tl.float32)
    else:  # ranks are the 16 rows of a tensor core's tile, so that 8 tokens are enough for its columns
        PIECE: tl.constexpr = BLOCK_K // PIECES
        columns = tl.arange(0, PIECES)[:, None, None] * PIECE + tl.arange(0, PIECE)[None, None, :]
        x_rows, a_rows, is_x, is_a = x_rows[None], a_rows[None], is_x[None], is_a[None]
        acc = tl.zeros((PIECES, BLOCK_R, BLOCK_T), dtype=tl.float32)
    part = tl.cdiv(tl.cdiv(K, BLOCK_K), SPLITS) * BLOCK_K
    for k in range(split * part, tl.minimum((split + 1) * part, K), BLOCK_K):
        is_k = (k + columns < K) | EVEN
        x_tile = tl.load(x_rows + k + columns, mask=is_x & is_k, other=0.0)
        a_tile = tl.load(a_rows + k + columns, mask=is_a & is_k, other=0.0)
        if PIECES == 1:
            acc = tl.dot(x_tile, tl.trans(a_tile), acc, input_precision=PRECISION)
        else:
            acc = tl.dot(a_tile, tl.permute(x_tile, (0, 2, 1)), acc, input_precision=PRECISION)
    if PIECES > 1:
        acc = tl.trans(tl.sum(acc, axis=0))

    # A plane for each part of K, which expand adds up: no atomics, so the same bits every time.
    h_rows = h + ((split * num_tokens + tokens[:, None]) * NUM_SLICES + slice_id) * R
    tl.store(h_rows + ranks[None, :], acc, mask=is_token[:, None] & is_rank[None, :])
    leave(PDL & BEHIND)


def shrink(x: torch.Tensor, lora_a: torch.Tensor, batch: LoRABatchInfo,
           behind: bool = False, workspace: torch.Tensor | None = None) -> torch.Tensor:
    """LoRA A for every token of a batch: the first half of `ops.lora_linear`, which checks the
    arguments. This raises no errors of its own.

    Args:
        x: (num_tokens, K) float16, bfloat16 or float32.
        lora_a: (max_loras, num_slices, R, K), of x's dtype.
        batch: the segments.
        behind: `linear` was launched right before, on the same x. On Hopper this runs beside it.
        workspace: float32, one axis, of enough elements; h becomes a view of its beginning.

    Returns:
        h: (splits, num_tokens, num_slices, R) float32 partial sums, one plane for each part of K.
        Only the ranks that a token's adapter has are written; the rest is uninitialised memory,
        and `expand` uses none of it.

    One launch, no synchronisation, and one allocation if there is no workspace. Each element of a plane is
    summed by one program in a fixed order, so the same input gives the same bits. Chapter *Shrink*
    derives it.
    """
    num_tokens, hidden = x.shape
    max_loras, num_slices, width, _ = lora_a.shape
    block_t, block_r, block_k = shrink_blocks(num_tokens, batch.num_segments, width, x.dtype)
    permuted = batch.permutation is not None
    places = batch.permutation.numel() if permuted else num_tokens
    tiles = most_tiles(places, batch, block_t)
    parts = num_slices * ceil_div(width, block_r)
    splits = hidden_splits(hidden, block_k, num_tokens, width, tiles * parts)
    steps = ceil_div(ceil_div(hidden, block_k), splits)
    parts *= splits
    h = scratch((splits, num_tokens, num_slices, width), x.device, workspace)
    block_segments = segment_block(batch, num_tokens)
    grid = (parts, tiles)
    if not block_segments:
        grid = (ceil_div(min(batch.max_len, num_tokens), block_t), parts, batch.num_segments)
    if 0 in grid or num_tokens == 0:
        return h
    shrink_kernel[grid](
        x, lora_a, h, batch.seg_indptr, batch.weight_indices, batch.lora_ranks,
        batch.permutation if permuted else batch.seg_indptr, num_tokens, max_loras, hidden, width,
        num_segments=batch.num_segments, max_len=batch.max_len,
        SPLITS=splits, NUM_SLICES=num_slices, PERMUTED=permuted, PRECISION=dot_precision(x.dtype),
        BLOCK_T=block_t, BLOCK_R=block_r, BLOCK_K=block_k, BLOCK_SEGMENTS=block_segments,
        PIECES=shrink_pieces(num_tokens), EVEN=hidden % block_k == 0,
        BEHIND=behind, num_warps=4, num_stages=shrink_stages(parts * tiles, steps, width, behind, x.device),
        **pdl_options(x.device))
    return h
