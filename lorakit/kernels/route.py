"""Route: one launch that sorts a batch's tokens by adapter and cuts them into segments."""

import torch
import triton
import triton.language as tl

from lorakit.batch import LoRABatchInfo
from lorakit.kernels.tiles import power_of_two, route_warps

MAX_TOKENS = 8192  # a program holds every token's slot in registers
COMPILED = {}  # variant -> what Triton compiled for it


# One variant for a range of sizes. Only token_slots is read in vectors, which needs alignment.
@triton.jit(do_not_specialize=["num_tokens", "max_loras"], do_not_specialize_on_alignment=[
    "slot_ranks", "slot_scalings", "seg_lens", "seg_indptr", "permutation", "weight_indices",
    "lora_ranks", "scalings"])
def route_kernel(
    token_slots,               # (num_tokens,) int32, slot of each token; no slot, no adapter
    slot_ranks,                # (max_loras,) int32, read only if COPY_SLOTS
    slot_scalings,             # (max_loras,) float32, read only if COPY_SLOTS
    seg_lens,                  # (num_segments,) int32, written
    seg_indptr,                # (num_segments + 1,) int32, written
    permutation,               # (num_tokens,) int32, written
    weight_indices,            # (num_segments,) int32, written up to max_loras
    lora_ranks,                # (num_segments,) int32, written up to max_loras if COPY_SLOTS
    scalings,                  # (num_segments,) float32, likewise
    num_tokens,                # at most BLOCK
    max_loras,                 # at most num_segments; the segments past it stay empty
    COPY_SLOTS: tl.constexpr,  # the batch keeps ranks and scalings in buffers of its own
    VECTORS: tl.constexpr,     # num_tokens is a multiple of 4, so four slots can be read at once
    BLOCK: tl.constexpr,       # tokens that a program reads: all of them, and a power of two
):
    # One program: one segment. The last one places the tokens without an adapter.
    segment = tl.program_id(0)
    last = tl.num_programs(0) - 1
    if VECTORS:
        num_tokens = num_tokens // 4 * 4  # the same number; the compiler now sees a multiple of 4
    tokens = tl.arange(0, BLOCK)
    is_token = tokens < num_tokens
    slots = tl.load(token_slots + tokens, mask=is_token, other=0)
    is_slot = segment < max_loras
    if COPY_SLOTS:  # loaded here, so that the wait overlaps with that for the slots
        slot_rank = tl.load(slot_ranks + segment, mask=is_slot, other=0)
        scaling = tl.load(slot_scalings + segment, mask=is_slot, other=0.0)
    keys = tl.where((slots >= 0) & (slots < max_loras), slots, last)

    # Count the tokens of the segments before this one, and its own; number those in their order.
    before = tl.sum((is_token & (keys < segment)).to(tl.int32))
    mine = is_token & (keys == segment)
    own = tl.sum(mine.to(tl.int32))
    places = before + tl.cumsum(mine.to(tl.int32)) - 1
    tl.store(permutation + places, tokens, mask=mine)
    if segment == 0:
        tl.store(seg_indptr, 0)  # the line of SGLang #23738, where it costs nothing
    if segment < last:
        tl.store(seg_lens + segment, own)
        tl.store(seg_indptr + segment + 1, before + own)
    tl.store(weight_indices + segment, segment, mask=is_slot)
    if COPY_SLOTS:
        tl.store(lora_ranks + segment, slot_rank, mask=is_slot)
        tl.store(scalings + segment, scaling, mask=is_slot)


def route(weight_indices: torch.Tensor, lora_ranks: torch.Tensor, scalings: torch.Tensor,
          out: LoRABatchInfo) -> None:
    """Write the segments of a batch into `out`: the work of `routing.route_by_adapter`, which
    checks the arguments. This raises no errors of its own.

    Args:
        weight_indices: (num_tokens,) int32, slot of each token, or NO_ADAPTER; at most MAX_TOKENS.
        lora_ranks: (max_loras,) int32. scalings: (max_loras,) float32.
        out: tensors to write into, with room for num_tokens and max_loras.

    One launch, no allocation, no synchronisation. Each place is written by one program, in the
    order of the tokens, so the result is a function of the input. Every program reads every slot:
    the price of not speaking to each other. Chapter *Routing on the device* derives it.
    """
    num_tokens = weight_indices.numel()
    block = max(32, power_of_two(num_tokens))  # powers of two: few variants to compile
    vectors = num_tokens % 4 == 0
    copy_slots = (out.lora_ranks.data_ptr() != lora_ranks.data_ptr()
                  or out.scalings.data_ptr() != scalings.data_ptr())
    grid = (out.num_segments + 1, 1, 1)
    args = (weight_indices, lora_ranks, scalings, out.seg_lens, out.seg_indptr, out.permutation,
            out.weight_indices, out.lora_ranks, out.scalings, num_tokens, lora_ranks.numel(),
            copy_slots, vectors, block)
    # Finding the variant again takes Triton as long as the launch. So keep what it found.
    variant = (weight_indices.device, weight_indices.data_ptr() % 16, copy_slots, vectors, block)
    compiled = COMPILED.get(variant)
    if compiled is None:
        COMPILED[variant] = route_kernel[grid](*args, num_warps=route_warps(block))
    else:
        compiled[grid](*args)
