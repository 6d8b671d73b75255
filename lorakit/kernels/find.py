"""How a program finds its work: the segment of a tile, the adapter of a place, the columns of a chunk, and
what it does if it has none. Parts of the LoRA kernels, on the device.
"""

import triton
import triton.language as tl


@triton.jit
def tile_of(tile, seg_indptr, weight_indices, num_segments, max_len, BLOCK_T: tl.constexpr,
            BLOCK: tl.constexpr):
    """Slot, first place and end of a tile. Tiles are counted segment by segment, so that there are no
    more of them than tokens, and no program for what a short segment lacks. Past the last one, first
    is end and the slot is -1. The bounds must not fall.
    """
    slot = -1
    first = 0
    end = 0
    counted = 0  # tiles of the segments so far
    if BLOCK <= 8:  # every bound and slot is on its way at once, and no load waits for another
        start = tl.load(seg_indptr)
        for segment in tl.static_range(BLOCK):
            is_segment = segment < num_segments
            until = tl.load(seg_indptr + segment + 1, mask=is_segment, other=0)
            owner = tl.load(weight_indices + segment, mask=is_segment, other=-1)
            length = tl.where(is_segment, tl.minimum(until - start, max_len), 0)
            passed = counted
            counted += tl.cdiv(length, BLOCK_T)
            is_tile = (tile >= passed) & (tile < counted)
            slot = tl.where(is_tile, owner, slot)
            first = tl.where(is_tile, start + (tile - passed) * BLOCK_T, first)
            end = tl.where(is_tile, start + length, end)
            start = until
    else:
        segment = 0
        passed_tiles = 0
        for i in range(0, num_segments, BLOCK):
            segments = i + tl.arange(0, BLOCK)
            is_segment = segments < num_segments
            start = tl.load(seg_indptr + segments, mask=is_segment, other=0)
            length = tl.load(seg_indptr + segments + 1, mask=is_segment, other=0) - start
            until = counted + tl.cumsum(tl.cdiv(tl.minimum(length, max_len), BLOCK_T))
            passed = is_segment & (until <= tile)
            segment += tl.sum(passed.to(tl.int32))
            passed_tiles = tl.maximum(passed_tiles, tl.max(tl.where(passed, until, 0)))
            counted = tl.max(until)
        if segment < num_segments:
            slot = tl.load(weight_indices + segment)
            start = tl.load(seg_indptr + segment)
            end = start + tl.minimum(tl.load(seg_indptr + segment + 1) - start, max_len)
            first = start + (tile - passed_tiles) * BLOCK_T
    return slot, first, end


@triton.jit
def adapter_of(place, seg_indptr, weight_indices, lora_ranks, num_segments, max_len, max_loras, R,
               BITS: tl.constexpr):
    """Slot and rank of the token at a place; rank 0 if it has no adapter."""
    low = 0
    high = num_segments
    for _ in tl.static_range(BITS):  # bisection: the number of segments that end before the place
        middle = (low + high) // 2
        ended = tl.load(seg_indptr + 1 + middle, mask=middle < num_segments, other=2**31 - 1) <= place
        low = tl.where(ended, middle + 1, low)
        high = tl.where(ended, high, middle)
    inside = (place >= 0) & (low < num_segments)
    slot = tl.load(weight_indices + low, mask=inside, other=-1)
    start = tl.load(seg_indptr + low, mask=inside, other=0)
    inside &= (slot >= 0) & (slot < max_loras) & (place - start < max_len)
    rank = tl.minimum(tl.load(lora_ranks + slot, mask=inside, other=0), R)
    return slot, rank


@triton.jit
def columns_of(chunk, steps, SLICE_SIZES: tl.constexpr, BLOCK_N: tl.constexpr):
    """The first columns of a program, their slice and its end. Chunks of `steps` tiles are counted
    slice by slice, so that none crosses from one slice into the next.
    """
    slice_id = 0
    slice_start = 0
    slice_end = SLICE_SIZES[0]
    for i in tl.static_range(1, len(SLICE_SIZES)):
        chunks_before = tl.cdiv(slice_end - slice_start, steps * BLOCK_N)
        if (slice_id == i - 1) & (chunk >= chunks_before):
            chunk -= chunks_before
            slice_id = i
            slice_start = slice_end
            slice_end += SLICE_SIZES[i]
    return slice_start + chunk * steps * BLOCK_N + tl.arange(0, BLOCK_N), slice_id, slice_end


@triton.jit
def named_tokens(permutation, named_until, PERMUTED: tl.constexpr, BLOCK_P: tl.constexpr):
    """The token at each of BLOCK_P places, or -1 from `named_until` on: what stands there is of another
    step. The host sees to it that BLOCK_P covers all places.
    """
    places = tl.arange(0, BLOCK_P)
    if PERMUTED:
        return tl.load(permutation + places, mask=places < named_until, other=-1)
    else:
        return tl.where(places < named_until, places, -1)


@triton.jit
def leave(PDL: tl.constexpr):
    """Before an early return. If every program returned without a wait, this kernel could end before
    the one in front of it, and the next one would begin beside that. One program that waits keeps
    the order.
    """
    if PDL:
        if tl.program_id(0) + tl.program_id(1) + tl.program_id(2) == 0:
            tl.extra.cuda.gdc_wait()
