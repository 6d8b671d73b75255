"""Expand: out += scaling * (h B^T), from the rank up to the output size, in place."""

import torch
import triton
import triton.language as tl

from lorakit.batch import LoRABatchInfo
from lorakit.kernels.tiles import (
    ceil_div, dot_precision, expand_stages, rank_block, token_block)


@triton.jit(do_not_specialize=["num_tokens"])  # one variant for every batch size
def expand_kernel(
    h,                           # (SPLITS, num_tokens, num_slices, R) float32, to be added up
    lora_b,                      # (max_loras, N, R), row-major, N = sum of the slices
    out,                         # (num_tokens, N), row-major, read and written
    seg_indptr,                  # (num_segments + 1,) int32
    weight_indices,              # (num_segments,) int32, slot of each segment
    lora_ranks,                  # (max_loras,) int32
    scalings,                    # (max_loras,) float32
    permutation,                 # (num_tokens,) int32, read only if PERMUTED
    num_tokens,                  # rows of h and of out
    max_loras,                   # slots in lora_b; another slot is no adapter
    N,                           # output size, all slices together
    R,                           # width of a slot: the largest rank it can hold
    SPLITS: tl.constexpr,        # planes of h
    SLICE_SIZES: tl.constexpr,   # output size of each stacked projection, a tuple
    PERMUTED: tl.constexpr,      # tokens are reached through permutation
    PRECISION: tl.constexpr,     # of the product; the sum is always float32
    BLOCK_T: tl.constexpr,       # tokens of a tile
    BLOCK_N: tl.constexpr,       # output columns of a tile
    BLOCK_R: tl.constexpr,       # ranks of one step of the loop
):
    # One program: BLOCK_T tokens of one segment, BLOCK_N columns of one slice, all ranks.
    segment = tl.program_id(2)
    first = tl.load(seg_indptr + segment) + tl.program_id(0) * BLOCK_T
    end = tl.load(seg_indptr + segment + 1)
    if first >= end:
        return
    slot = tl.load(weight_indices + segment)
    if (slot < 0) | (slot >= max_loras):
        return
    rank = tl.minimum(tl.load(lora_ranks + slot), R)
    if rank <= 0:
        return

    # Column tiles are counted slice by slice, so that no tile crosses from one into the next.
    tile = tl.program_id(1)
    slice_id = 0
    slice_start = 0
    slice_end = SLICE_SIZES[0]
    for i in tl.static_range(1, len(SLICE_SIZES)):
        tiles_before = tl.cdiv(slice_end - slice_start, BLOCK_N)
        if (slice_id == i - 1) & (tile >= tiles_before):
            tile -= tiles_before
            slice_id = i
            slice_start = slice_end
            slice_end += SLICE_SIZES[i]
    columns = slice_start + tile * BLOCK_N + tl.arange(0, BLOCK_N)
    is_column = columns < slice_end

    places = first + tl.arange(0, BLOCK_T)
    is_token = places < end
    tokens = tl.load(permutation + places, mask=is_token, other=0) if PERMUTED else places
    is_token &= (tokens >= 0) & (tokens < num_tokens)  # a batch of another step must not corrupt
    tokens = tokens.to(tl.int64)
    h_rows = h + (tokens[:, None] * len(SLICE_SIZES) + slice_id) * R
    plane_size = num_tokens.to(tl.int64) * len(SLICE_SIZES) * R
    b_rows = lora_b + (slot.to(tl.int64) * N + columns[None, :]) * R

    acc = tl.zeros((BLOCK_T, BLOCK_N), dtype=tl.float32)
    for r in range(0, rank, BLOCK_R):
        ranks = r + tl.arange(0, BLOCK_R)
        is_rank = ranks < rank  # columns from `rank` on belong to nobody and may hold NaN
        is_h = is_token[:, None] & is_rank[None, :]
        h_tile = tl.load(h_rows + ranks[None, :], mask=is_h, other=0.0)
        for plane in tl.static_range(1, SPLITS):  # in this order every time
            h_tile += tl.load(h_rows + plane * plane_size + ranks[None, :], mask=is_h, other=0.0)
        b_tile = tl.load(b_rows + ranks[:, None],
                         mask=is_rank[:, None] & is_column[None, :], other=0.0)
        acc = tl.dot(h_tile, b_tile.to(tl.float32), acc, input_precision=PRECISION)

    out_tile = out + tokens[:, None] * N + columns[None, :]
    is_out = is_token[:, None] & is_column[None, :]
    base = tl.load(out_tile, mask=is_out, other=0.0).to(tl.float32)
    total = base + acc * tl.load(scalings + slot)
    tl.store(out_tile, total.to(out.dtype.element_ty), mask=is_out)


def expand(h: torch.Tensor, lora_b: torch.Tensor, out: torch.Tensor, batch: LoRABatchInfo,
           slice_sizes: tuple[int, ...]) -> torch.Tensor:
    """LoRA B for every token of a batch, scaled and added into `out` in place: the second half of
    `ops.lora_linear`, which checks the arguments. This raises no errors of its own.

    Args:
        h: (splits, num_tokens, num_slices, R) float32, from `shrink`.
        lora_b: (max_loras, N, R) float16, bfloat16 or float32.
        out: (num_tokens, N), of lora_b's dtype. Rows of tokens without an adapter stay as they are.
        batch: the segments.
        slice_sizes: output size of each slice; they add up to N.

    Returns:
        out.

    One launch, no allocation, no synchronisation. Each element of out is written by one program,
    so the same input gives the same bits. Chapter *Expand* derives it.
    """
    max_loras, _, width = lora_b.shape
    block_t, block_n = token_block(batch.max_len), 128
    grid = (ceil_div(batch.max_len, block_t),
            sum(ceil_div(size, block_n) for size in slice_sizes), batch.num_segments)
    if 0 in grid:
        return out
    permuted = batch.permutation is not None
    expand_kernel[grid](
        h, lora_b, out, batch.seg_indptr, batch.weight_indices, batch.lora_ranks, batch.scalings,
        batch.permutation if permuted else batch.seg_indptr,
        out.shape[0], max_loras, out.shape[1], width,
        SPLITS=h.shape[0], SLICE_SIZES=slice_sizes, PERMUTED=permuted,
        PRECISION=dot_precision(lora_b.dtype),
        BLOCK_T=block_t, BLOCK_N=block_n, BLOCK_R=rank_block(width),
        num_stages=expand_stages(lora_b.dtype))
    return out
