"""Expand: out += scaling * (h B^T), from the rank up to the output size, in place."""

import torch
import triton
import triton.language as tl

from lorakit.batch import LoRABatchInfo
from lorakit.kernels.find import columns_of, leave, named_tokens, tile_of
from lorakit.kernels.sums import dot_float32, plane_sum, split_float32
from lorakit.kernels.tiles import (
    ceil_div, column_block, column_stages, column_steps, dot_precision, expand_warps, has_room, most_tiles,
    pdl_options, power_of_two, rank_block, segment_block, token_block)


@triton.jit(do_not_specialize=["num_tokens", "num_segments", "max_len", "rest_from", "steps"])
def expand_kernel(
    h,                           # (SPLITS, num_tokens, num_slices, R) float32, to be added up
    lora_b,                      # (max_loras, N, R), row-major, N = sum of the slices
    base,                        # (BASE_PLANES, num_tokens, N) float32, to be added up
    out,                         # (num_tokens, N), row-major, written; the base if not BASE_PLANES
    seg_indptr,                  # (num_segments + 1,) int32
    weight_indices,              # (num_segments,) int32, slot of each segment
    lora_ranks,                  # (max_loras,) int32
    scalings,                    # (max_loras,) float32
    permutation,                 # (num_tokens,) int32, read only if PERMUTED
    num_tokens,                  # rows of h, base and out
    num_segments,
    max_len,                     # tokens of a segment past it get no LoRA
    rest_from,                   # tiles from here on take the tokens that no segment names
    max_loras,                   # slots in lora_b; another slot is no adapter
    N,                           # output size, all slices together
    R: tl.constexpr,             # width of a slot: the largest rank it can hold
    steps,                       # column tiles of a program, one after the other
    SPLITS: tl.constexpr,        # planes of h
    BASE_PLANES: tl.constexpr,   # planes of base; 0: the base output lies in out
    LATE: tl.constexpr,          # the kernel before this one wrote it there
    SLICE_SIZES: tl.constexpr,   # output size of each stacked projection, a tuple
    PERMUTED: tl.constexpr,      # tokens are reached through permutation
    PRECISION: tl.constexpr,     # of a float32 product
    BLOCK_T: tl.constexpr,       # tokens of a tile
    BLOCK_N: tl.constexpr,       # output columns of a tile
    BLOCK_R: tl.constexpr,       # a power of two, at least R
    BLOCK_P: tl.constexpr,       # a power of two, at least the places; used if BASE_PLANES
    BLOCK_SEGMENTS: tl.constexpr,  # segments looked through at once, or 0: see tiles.py
    EVEN: tl.constexpr,          # BLOCK_N divides every slice
    STAGES: tl.constexpr,        # tiles of B in shared memory: all but one are on their way
    PDL: tl.constexpr,           # this kernel may start before the one before it has ended
):
    # One program: BLOCK_T tokens of one segment, BLOCK_N columns of one slice, all ranks.
    tile = tl.program_id(1)
    is_rest = tile >= rest_from  # the tokens that no segment names, if BASE_PLANES
    if BLOCK_SEGMENTS == 0:  # a grid of columns, tiles of a segment, and segments
        segment = tl.program_id(2)
        slot = tl.load(weight_indices + segment)
        is_rest = False
        start = tl.load(seg_indptr + segment)
        first = start + tile * BLOCK_T
        end = start + tl.minimum(tl.load(seg_indptr + segment + 1) - start, max_len)
    else:
        slot, first, end = tile_of(
            tile, seg_indptr, weight_indices, num_segments, max_len, BLOCK_T, BLOCK_SEGMENTS)
    if is_rest:  # slot is -1
        first = (tile - rest_from) * BLOCK_T
        end = num_tokens
    if first >= end:
        leave(PDL)
        return
    places = first + tl.arange(0, BLOCK_T)
    is_token = places < end
    tokens = places
    if PERMUTED:
        tokens = tl.load(permutation + places, mask=is_token & (not is_rest), other=-1)
        tokens = tl.where(is_rest, places, tokens)
    is_token &= (tokens >= 0) & (tokens < num_tokens)  # a batch of another step must not corrupt
    rank = 0
    scaling = 0.0
    if (slot >= 0) & (slot < max_loras):
        rank = tl.minimum(tl.load(lora_ranks + slot), R)
        scaling = tl.load(scalings + slot, mask=rank > 0, other=0.0)  # alpha / 0 may be anything
    if BASE_PLANES == 0:
        if rank <= 0:
            leave(PDL)
            return
    elif is_rest:
        named = named_tokens(permutation, tl.load(seg_indptr + num_segments), PERMUTED, BLOCK_P)
        is_token &= tl.sum((named[None, :] == tokens[:, None]).to(tl.int32), axis=1) == 0

    columns, slice_id, slice_end = columns_of(tl.program_id(0), steps, SLICE_SIZES, BLOCK_N)
    steps = tl.minimum(steps, tl.cdiv(slice_end - tl.min(columns), BLOCK_N))

    tokens = tokens.to(tl.int64)
    ranks = tl.arange(0, BLOCK_R)
    is_rank = ranks < rank  # from `rank` on, B and h belong to nobody and may hold NaN
    is_read = (ranks // 8 * 8 < rank) & (ranks < R)  # eight at once: 16 bytes in one load
    b_ranks = lora_b + slot.to(tl.int64) * N * R + ranks[:, None]
    out_rows = out + tokens[:, None] * N
    base_rows = base + tokens[:, None] * N
    base_plane = num_tokens.to(tl.int64) * N

    h_rows = h + (tokens[:, None] * len(SLICE_SIZES) + slice_id) * R + ranks[None, :]
    h_plane = num_tokens.to(tl.int64) * len(SLICE_SIZES) * R
    if rank % 8 > 0:  # B makes a trip through registers
        add_columns(h_rows, h_plane, b_ranks, base_rows, base_plane, out_rows, columns, slice_end, steps,
                    scaling, is_token, is_rank, is_read, R, SPLITS, BASE_PLANES, LATE, PRECISION,
                    BLOCK_T, BLOCK_N, BLOCK_R, EVEN, STAGES, PDL, True)
    else:
        add_columns(h_rows, h_plane, b_ranks, base_rows, base_plane, out_rows, columns, slice_end, steps,
                    scaling, is_token, is_rank, is_read, R, SPLITS, BASE_PLANES, LATE, PRECISION,
                    BLOCK_T, BLOCK_N, BLOCK_R, EVEN, STAGES, PDL, False)


@triton.jit
def add_columns(h_rows, h_plane, b_ranks, base_rows, base_plane, out_rows, columns, slice_end, steps,
                scaling, is_token, is_rank, is_read, R: tl.constexpr, SPLITS: tl.constexpr,
                BASE_PLANES: tl.constexpr, LATE: tl.constexpr, PRECISION: tl.constexpr,
                BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr,
                EVEN: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr, RAGGED: tl.constexpr):
    """The steps of one program. B goes from memory to a tensor core's shared memory, STAGES tiles
    ahead. What the kernel before this one does not write is loaded before the wait, while that one
    still runs. What it does write is loaded under a condition, so that no load moves ahead.
    """
    early: tl.constexpr = (BASE_PLANES == 0) & (not LATE)  # base is there before the wait
    dtype: tl.constexpr = b_ranks.dtype.element_ty
    high, low = split_float32(tl.zeros((BLOCK_T, BLOCK_R), dtype=tl.float32), dtype)
    next_base = tl.zeros((BLOCK_T, BLOCK_N), dtype=base_rows.dtype.element_ty)
    for step in tl.range(0, steps, num_stages=STAGES):
        here = columns + step * BLOCK_N
        is_column = (here < slice_end) | EVEN
        is_out = is_token[:, None] & is_column[None, :]
        b_tile = tl.load(b_ranks + here[None, :] * R, mask=is_read[:, None] & is_column[None, :],
                         other=0.0)
        if early:
            base_tile = tl.load(out_rows + here[None, :], mask=is_out, other=0.0)
        if step == 0:
            if PDL:
                tl.extra.cuda.gdc_wait()
                if not early:  # the next layer's base product may take its places, and wait there
                    tl.extra.cuda.gdc_launch_dependents()
            if not early:
                next_base = plane_sum(base_rows + here[None, :], base_plane, is_out, BASE_PLANES)
            is_h = is_token[:, None] & tl.trans(is_read[:, None])
            h_tile = plane_sum(h_rows, h_plane, is_h, SPLITS)
            high, low = split_float32(tl.where(tl.trans(is_rank[:, None]), h_tile, 0.0) * scaling, dtype)
        if not early:
            base_tile = next_base
            if step + 1 < steps:
                then = here + BLOCK_N
                is_next = is_token[:, None] & ((then < slice_end) | EVEN)[None, :]
                next_base = plane_sum(base_rows + then[None, :], base_plane, is_next, BASE_PLANES)
        if RAGGED:
            b_tile = tl.where(is_rank[:, None], b_tile, 0.0)
        total = base_tile.to(tl.float32) + dot_float32(high, low, b_tile, PRECISION)
        tl.store(out_rows + here[None, :], total.to(out_rows.dtype.element_ty), mask=is_out)


def expand(h: torch.Tensor, lora_b: torch.Tensor, out: torch.Tensor, batch: LoRABatchInfo,
           slice_sizes: tuple[int, ...], base: torch.Tensor | None = None) -> torch.Tensor:
    """LoRA B for every token of a batch, scaled and added into `out` in place: the second half of
    `ops.lora_linear`, which checks the arguments. This raises no errors of its own.

    Args:
        h: (splits, num_tokens, num_slices, R) float32, from `shrink`.
        lora_b: (max_loras, N, R) float16, bfloat16 or float32.
        out: (num_tokens, N), of lora_b's dtype. Rows of tokens without an adapter stay as they are.
        batch: the segments.
        slice_sizes: output size of each slice; they add up to N.
        base: what `linear` returned before shrink, if it did, for a batch cut by adapter: then all
            rows of out are written. Without it, out holds the base output.

    Returns:
        out.

    One launch, no allocation, no synchronisation. Each element of out is written by one program,
    so the same input gives the same bits. On Hopper it starts while shrink runs, and reads out, B and
    the segments before shrink has ended: launch `linear` if at all, then shrink, then this, in one
    stream and with nothing between them that writes those. With `base` it lets the next kernel start
    early, once it has itself waited. Chapter *Expand* derives it, and *How fast can it go?* makes it
    fast.
    """
    max_loras, _, width = lora_b.shape
    num_tokens, outputs = out.shape
    late = base is out
    planes = 0 if base is None or late else base.shape[0]
    block_r, room = rank_block(width), has_room(out.device)
    block_t = token_block(num_tokens, batch.num_segments, block_r, outputs)
    permuted = batch.permutation is not None
    places = batch.permutation.numel() if permuted else num_tokens
    tiles = most_tiles(places, batch, block_t)
    block_n = column_block(block_t, block_r, outputs * tiles, lora_b.dtype, room)
    steps = column_steps(ceil_div(outputs, block_n) * tiles, 264, 2048 // block_n)
    chunks = sum(ceil_div(size, steps * block_n) for size in slice_sizes)
    block_segments = segment_block(batch, num_tokens)
    grid = (chunks, tiles + ceil_div(num_tokens, block_t) * (planes > 0))
    if not block_segments:
        grid = (chunks, ceil_div(min(batch.max_len, num_tokens), block_t), batch.num_segments)
    if num_tokens == 0 or 0 in grid:
        return out
    expand_kernel[grid](
        h, lora_b, h if base is None else base, out, batch.seg_indptr, batch.weight_indices,
        batch.lora_ranks, batch.scalings, batch.permutation if permuted else batch.seg_indptr,
        num_tokens, batch.num_segments, batch.max_len, tiles, max_loras, outputs, width, steps,
        SPLITS=h.shape[0], BASE_PLANES=planes, LATE=late, SLICE_SIZES=slice_sizes, PERMUTED=permuted,
        PRECISION=dot_precision(lora_b.dtype), BLOCK_T=block_t, BLOCK_N=block_n, BLOCK_R=block_r,
        BLOCK_P=power_of_two(places) if planes else 1, BLOCK_SEGMENTS=block_segments,
        EVEN=all(size % block_n == 0 for size in slice_sizes), STAGES=column_stages(block_n, room),
        num_warps=expand_warps(block_n, base is not None), **pdl_options(out.device))
    return out
