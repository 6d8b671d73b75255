"""Shrink and expand for a batch in which hardly two tokens share an adapter: a program a token.

A tensor core multiplies tiles of 16 rows. Where each token has an adapter of its own, 15 of them
would be padding, and moving the padding about costs more than the bytes of the weights. These two
kernels multiply by plain arithmetic instead, and have no program without a token. They take batches
that are cut by adapter. Chapter *How fast can it go?* says where they win.
"""

import torch
import triton
import triton.language as tl

from lorakit.batch import LoRABatchInfo
from lorakit.kernels.find import adapter_of, columns_of, leave, named_tokens
from lorakit.kernels.sums import plane_sum
from lorakit.kernels.tiles import ceil_div, column_steps, pdl_options, power_of_two, rank_block
from lorakit.kernels.workspace import scratch


@triton.jit(do_not_specialize=["num_tokens", "num_segments", "max_len"])
def shrink_kernel(
    x,                         # (num_tokens, K), row-major
    lora_a,                    # (max_loras, num_slices, R, K), row-major
    h,                         # (SPLITS, num_tokens, num_slices, R) float32, written
    seg_indptr,                # (num_segments + 1,) int32
    weight_indices,            # (num_segments,) int32, slot of each segment
    lora_ranks,                # (max_loras,) int32
    permutation,               # (num_tokens,) int32
    num_tokens,                # rows of x and of h
    num_segments,              # less than 2**BITS
    max_len,                   # tokens of a segment past it get no LoRA
    max_loras,                 # slots in lora_a; another slot is no adapter
    K,                         # hidden size
    R,                         # width of a slot: the largest rank it can hold
    SPLITS: tl.constexpr,      # parts that K is cut into, each summed by its own program
    NUM_SLICES: tl.constexpr,  # stacked projections: 3 for q, k, v
    BLOCK_R: tl.constexpr,     # ranks of a tile
    BLOCK_K: tl.constexpr,     # hidden elements of one step of the loop
    BITS: tl.constexpr,        # of num_segments
    PDL: tl.constexpr,         # start while the kernel before ends; let the next one start too
    BEHIND: tl.constexpr,      # that kernel is `linear`, which has waited, and runs beside this one
):
    # One program: one token, BLOCK_R ranks of one slice, one part of K.
    if PDL & (not BEHIND):
        tl.extra.cuda.gdc_wait()  # launched early, it reads nothing before all earlier work is done
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    place = tl.program_id(1)
    token = tl.load(permutation + place)
    slot, rank = adapter_of(place, seg_indptr, weight_indices, lora_ranks, num_segments, max_len,
                            max_loras, R, BITS)
    split = tl.program_id(0) % SPLITS
    slice_id = tl.program_id(0) // SPLITS % NUM_SLICES
    ranks = tl.program_id(0) // (SPLITS * NUM_SLICES) * BLOCK_R + tl.arange(0, BLOCK_R)
    is_rank = ranks < rank  # rows from `rank` on belong to nobody and may hold NaN
    if (tl.min(ranks) >= rank) | (token < 0) | (token >= num_tokens):
        leave(PDL & BEHIND)
        return

    x_row = x + token.to(tl.int64) * K
    a_rows = lora_a + ((slot.to(tl.int64) * NUM_SLICES + slice_id) * R + ranks[:, None]) * K
    sums = tl.zeros((BLOCK_R, BLOCK_K), dtype=tl.float32)
    part = tl.cdiv(tl.cdiv(K, BLOCK_K), SPLITS) * BLOCK_K
    for k in range(split * part, tl.minimum((split + 1) * part, K), BLOCK_K):
        ks = k + tl.arange(0, BLOCK_K)
        is_k = ks < K
        a_tile = tl.load(a_rows + ks[None, :], mask=is_rank[:, None] & is_k[None, :], other=0.0)
        x_tile = tl.load(x_row + ks, mask=is_k, other=0.0)
        sums += a_tile.to(tl.float32) * x_tile.to(tl.float32)[None, :]
    h_row = h + ((split * num_tokens + token).to(tl.int64) * NUM_SLICES + slice_id) * R
    tl.store(h_row + ranks, tl.sum(sums, axis=1), mask=is_rank)
    leave(PDL & BEHIND)


@triton.jit(do_not_specialize=["num_tokens", "num_places", "num_segments", "max_len", "steps"])
def expand_kernel(
    h,                           # (SPLITS, num_tokens, num_slices, R) float32, to be added up
    lora_b,                      # (max_loras, N, R), row-major, N = sum of the slices
    base,                        # (BASE_PLANES, num_tokens, N) float32, to be added up
    out,                         # (num_tokens, N), row-major, written; the base if not BASE_PLANES
    seg_indptr,                  # (num_segments + 1,) int32
    weight_indices,              # (num_segments,) int32, slot of each segment
    lora_ranks,                  # (max_loras,) int32
    scalings,                    # (max_loras,) float32
    permutation,                 # (num_places,) int32
    num_tokens,                  # rows of h, base and out
    num_places,                  # at most BLOCK_P; more than num_tokens in buffers with room
    num_segments,                # less than 2**BITS
    max_len,                     # tokens of a segment past it get no LoRA
    max_loras,                   # slots in lora_b; another slot is no adapter
    N,                           # output size, all slices together
    R: tl.constexpr,             # width of a slot
    steps,                       # column tiles of a program, one after the other
    SPLITS: tl.constexpr,        # planes of h
    BASE_PLANES: tl.constexpr,   # planes of base; 0: the base output lies in out
    LATE: tl.constexpr,          # the kernel before this one wrote it there
    SLICE_SIZES: tl.constexpr,   # output size of each stacked projection, a tuple
    BLOCK_N: tl.constexpr,       # output columns of a tile
    BLOCK_R: tl.constexpr,       # a power of two, at least R
    BLOCK_S: tl.constexpr,       # a power of two, at least SPLITS
    BLOCK_P: tl.constexpr,       # a power of two, at least num_places; used if BASE_PLANES
    BITS: tl.constexpr,          # of num_segments
    PDL: tl.constexpr,           # this kernel may start before the one before it has ended
):
    # One program: one token, `steps` tiles of BLOCK_N columns of one slice.
    token = tl.program_id(1)
    place = token
    if BASE_PLANES == 0:
        token = tl.load(permutation + place)
    else:  # every token is written; its place is where the permutation names it
        named_until = tl.minimum(tl.load(seg_indptr + num_segments), num_places)
        named = named_tokens(permutation, named_until, True, BLOCK_P)
        place = tl.max(tl.where(named == token, tl.arange(0, BLOCK_P), -1))
    slot, rank = adapter_of(place, seg_indptr, weight_indices, lora_ranks, num_segments, max_len,
                            max_loras, R, BITS)
    if (token < 0) | (token >= num_tokens):
        leave(PDL)
        return
    if BASE_PLANES == 0:
        if rank <= 0:
            leave(PDL)
            return
    scaling = tl.load(scalings + slot, mask=rank > 0, other=0.0)

    columns, slice_id, slice_end = columns_of(tl.program_id(0), steps, SLICE_SIZES, BLOCK_N)
    steps = tl.minimum(steps, tl.cdiv(slice_end - tl.min(columns), BLOCK_N))

    token = token.to(tl.int64)
    ranks = tl.arange(0, BLOCK_R)
    is_rank = ranks < rank  # from `rank` on, B and h belong to nobody and may hold NaN
    is_read = (ranks // 8 * 8 < rank) & (ranks < R)  # eight at once: 16 bytes in one load
    b_places = lora_b + slot.to(tl.int64) * N * R + ranks[None, :]
    out_row = out + token * N
    base_row = base + token * N
    base_plane = num_tokens.to(tl.int64) * N

    # What the kernel before this one does not write is loaded first, while that one still runs.
    is_column = columns < slice_end
    b_tile = tl.load(b_places + columns[:, None] * R, mask=is_column[:, None] & is_read[None, :],
                     other=0.0)
    if (BASE_PLANES == 0) & (not LATE):
        total = tl.load(out_row + columns, mask=is_column, other=0.0).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
        if (BASE_PLANES > 0) | LATE:  # the next layer's base product may take its places, and wait there
            tl.extra.cuda.gdc_launch_dependents()
    if (BASE_PLANES == 0) & LATE:
        total = tl.load(out_row + columns, mask=is_column, other=0.0).to(tl.float32)
    if BASE_PLANES > 0:
        total = plane_sum(base_row + columns, base_plane, is_column, BASE_PLANES)
    planes = tl.arange(0, BLOCK_S)
    h_row = h + (token * len(SLICE_SIZES) + slice_id) * R + ranks[None, :]
    h_plane = num_tokens.to(tl.int64) * len(SLICE_SIZES) * R
    h_tile = tl.load(h_row + planes[:, None] * h_plane,
                     mask=(planes < SPLITS)[:, None] & is_read[None, :], other=0.0)
    h_tile = tl.where(is_rank[None, :], h_tile, 0.0)
    h_sum = tl.sum(h_tile, axis=0) * scaling  # in the same order every time

    for step in tl.range(0, steps, num_stages=1):  # each step loads for the next one
        next_columns = columns + BLOCK_N
        is_next = (next_columns < slice_end) & (step + 1 < steps)
        next_b = tl.load(b_places + next_columns[:, None] * R,
                         mask=is_next[:, None] & is_read[None, :], other=0.0)
        if BASE_PLANES == 0:
            next_total = tl.load(out_row + next_columns, mask=is_next, other=0.0).to(tl.float32)
        else:
            next_total = plane_sum(base_row + next_columns, base_plane, is_next, BASE_PLANES)
        b_tile = tl.where(is_rank[None, :], b_tile, 0.0).to(tl.float32)
        total += tl.sum(b_tile * h_sum[None, :], axis=1)
        tl.store(out_row + columns, total.to(out.dtype.element_ty), mask=is_column)
        columns, is_column, b_tile, total = next_columns, is_next, next_b, next_total


def shrink_tokens(x: torch.Tensor, lora_a: torch.Tensor, batch: LoRABatchInfo,
                  behind: bool = False, workspace: torch.Tensor | None = None) -> torch.Tensor:
    """`shrink.shrink`, a program a token: the same arguments and the same result, if not the same bits.

    Up to 8 planes. The parts are 512 elements long or more, 256 where there are programs enough.
    """
    num_tokens, hidden = x.shape
    max_loras, num_slices, width, _ = lora_a.shape
    few = num_tokens * num_slices <= 24 or hidden > 8192
    block_k = 512 if few and x.dtype != torch.float32 else 256
    parts = ceil_div(hidden, block_k)
    splits = ceil_div(parts, ceil_div(parts, 8))
    h = scratch((splits, num_tokens, num_slices, width), x.device, workspace)
    if h.numel() == 0 or batch.num_segments == 0:
        return h
    places = batch.permutation.numel()
    shrink_kernel[splits * num_slices * ceil_div(width, 16), places](
        x, lora_a, h, batch.seg_indptr, batch.weight_indices, batch.lora_ranks,
        batch.permutation, num_tokens, batch.num_segments,
        batch.max_len, max_loras, hidden, width, SPLITS=splits, NUM_SLICES=num_slices,
        BLOCK_R=16, BLOCK_K=block_k, BITS=batch.num_segments.bit_length(),
        BEHIND=behind, **pdl_options(x.device))
    return h


def expand_tokens(h: torch.Tensor, lora_b: torch.Tensor, out: torch.Tensor, batch: LoRABatchInfo,
                  slice_sizes: tuple[int, ...], base: torch.Tensor | None = None) -> torch.Tensor:
    """`expand.expand`, a program a token: the same arguments and the same result, if not the same
    bits. A tile of B has 4,096 elements: two loads of 16 bytes a thread for every 16 ranks.
    """
    max_loras, _, width = lora_b.shape
    num_tokens, outputs = out.shape
    late = base is out
    planes = 0 if base is None or late else base.shape[0]
    if num_tokens == 0 or batch.num_segments == 0 and not planes:
        return out
    places = batch.permutation.numel()
    block_r = rank_block(width)
    block_n = max(16, 4096 // block_r)
    steps = column_steps(ceil_div(outputs, block_n) * num_tokens, 528, 8)
    grid = (sum(ceil_div(size, block_n * steps) for size in slice_sizes),
            num_tokens if planes else places)
    expand_kernel[grid](
        h, lora_b, h if base is None else base, out, batch.seg_indptr, batch.weight_indices,
        batch.lora_ranks, batch.scalings, batch.permutation,
        num_tokens, places, batch.num_segments, batch.max_len, max_loras, outputs, width, steps,
        SPLITS=h.shape[0], BASE_PLANES=planes, LATE=late, SLICE_SIZES=slice_sizes,
        BLOCK_N=block_n, BLOCK_R=block_r, BLOCK_S=power_of_two(h.shape[0]),
        BLOCK_P=power_of_two(places) if planes else 1, BITS=batch.num_segments.bit_length(),
        **pdl_options(out.device))
    return out
