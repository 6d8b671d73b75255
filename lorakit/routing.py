"""Routing: from one adapter slot a token to segments that a kernel can walk.

Two ways to cut a batch. One segment a request keeps the tokens where they are; one segment an
adapter sorts them, so that the work grows with the adapters and not with the requests (SGLang
#22386). Chapter *From requests to segments* derives both, *Routing on the device* the kernel of the
second; *The seg_indptr sync bug* tells what one careless line in it cost (SGLang #23738).

Nothing here synchronises with the host, and everything can be captured.
"""

import torch

from lorakit import runtime
from lorakit.batch import LoRABatchInfo, StaticLoRABatchInfo, require, require_size

try:
    from lorakit.kernels.route import MAX_TOKENS, route
except ModuleNotFoundError as missing:  # Triton is published for Linux only
    if missing.name != "triton":
        raise
    MAX_TOKENS, route = 0, None

SIGN_BIT_OFF = 0x7FFFFFFF


def route_by_request(weight_indices: torch.Tensor, seg_lens: torch.Tensor, max_len: int,
                     lora_ranks: torch.Tensor, scalings: torch.Tensor) -> LoRABatchInfo:
    """One segment a request, tokens in their own order.

    Args:
        weight_indices: (bs,) int32, slot of each request, or NO_ADAPTER.
        seg_lens: (bs,) int32, tokens of each request, at least 0.
        max_len: the longest request. The host knows it, and reading it back would synchronise.
            A value that is too small leaves the tokens past it without LoRA.
        lora_ranks: (max_loras,) int32.
        scalings: (max_loras,) float32.

    All on one device. Does not synchronise.

    Raises:
        TypeError, ValueError: naming the argument, before any launch.
    """
    check_slots(lora_ranks, scalings)
    require(weight_indices, "weight_indices", torch.int32, lora_ranks.device, ndim=1)
    bs = weight_indices.numel()
    require(seg_lens, "seg_lens", torch.int32, lora_ranks.device, shape=(bs,))
    require_size(max_len, "max_len")
    seg_indptr = torch.zeros(bs + 1, dtype=torch.int32, device=lora_ranks.device)
    torch.cumsum(seg_lens, dim=0, out=seg_indptr[1:])
    return LoRABatchInfo(
        bs=bs, use_cuda_graph=False, num_segments=bs, seg_lens=seg_lens, seg_indptr=seg_indptr,
        max_len=max_len, weight_indices=weight_indices, lora_ranks=lora_ranks, scalings=scalings)


def route_by_adapter(weight_indices: torch.Tensor, lora_ranks: torch.Tensor,
                     scalings: torch.Tensor,
                     out: StaticLoRABatchInfo | None = None) -> LoRABatchInfo:
    """One segment an adapter slot, tokens sorted by slot: SGLang's `compute_sgemm_routing`.

    Args:
        weight_indices: (num_tokens,) int32, slot of each token, or NO_ADAPTER. Another value
            that is no slot counts as NO_ADAPTER too (where the twin runs, from -2**31 + max_loras
            on, and such tokens come before those with NO_ADAPTER): the device cannot raise an
            error without making the host wait. `batch.slots_to_device` checks values where that is free. In
            prefill, repeat each request's slot for its tokens with
            `torch.repeat_interleave(slots, seg_lens, output_size=num_tokens)`.
        lora_ranks: (max_loras,) int32.
        scalings: (max_loras,) float32.
        out: static buffers to write into; `lora_ranks` and `scalings` are copied into them. In a
            capture, pass the buffers' own tensors, so that `out.copy_from` has the last word.
            None makes fresh tensors, with max_len = num_tokens.

    All on one device, the current GPU or the CPU. On a GPU one kernel for up to 8192 tokens; past
    that, and on a CPU, the twin `route_by_adapter_torch`. The sort is stable, so the result is a
    function of the input alone. Tokens without an adapter come last and belong to no segment. Does not
    synchronise and can be captured; the kernel with `out` allocates nothing. Chapter *Routing on the
    device* derives it.

    Raises:
        TypeError, ValueError: naming the argument, before any launch; also for tensors on a GPU
            that is not the current one.
    """
    check_batch(weight_indices, lora_ranks, scalings, out)
    device = lora_ranks.device
    tokens, loras = weight_indices.numel(), lora_ranks.numel()
    if device.type == "cuda":
        runtime.require_usable(device, "lora_ranks")
    if device.type != "cuda" or route is None or tokens > MAX_TOKENS:
        return route_by_adapter_torch(weight_indices, lora_ranks, scalings, out)
    if out is None:
        ints = {"dtype": torch.int32, "device": device}
        out = LoRABatchInfo(
            bs=loras, use_cuda_graph=False, num_segments=loras,
            seg_lens=torch.empty(loras, **ints), seg_indptr=torch.empty(loras + 1, **ints),
            max_len=tokens, weight_indices=torch.empty(loras, **ints),
            lora_ranks=lora_ranks, scalings=scalings, permutation=torch.empty(tokens, **ints))
    route(weight_indices, lora_ranks, scalings, out)
    return out


def route_by_adapter_torch(weight_indices: torch.Tensor, lora_ranks: torch.Tensor,
                           scalings: torch.Tensor,
                           out: StaticLoRABatchInfo | None = None) -> LoRABatchInfo:
    """`route_by_adapter` in PyTorch operations: the readable twin, and an oracle for the kernel.

    Arguments, result and errors are those of `route_by_adapter`, on any device. A value that is
    no slot must be above -2**31 + max_loras, or clearing its sign bit would make a slot of it;
    such tokens are sorted among themselves, before those with NO_ADAPTER. Over a dozen launches,
    some with temporaries. Does not synchronise and can be captured.
    """
    check_batch(weight_indices, lora_ranks, scalings, out)
    device = lora_ranks.device
    tokens, loras = weight_indices.numel(), lora_ranks.numel()
    # With the sign bit off, NO_ADAPTER (-1) becomes the largest int32 and sorts last.
    keys = weight_indices.bitwise_and(SIGN_BIT_OFF)
    permutation = torch.argsort(keys, stable=True)
    sorted_keys = keys[permutation]
    ids_buffer = None if out is None else out.weight_indices[:loras]
    adapter_ids = torch.arange(loras, dtype=torch.int32, device=device, out=ids_buffer)
    seg_starts = torch.searchsorted(sorted_keys, adapter_ids, out_int32=True)
    seg_ends = torch.searchsorted(sorted_keys, adapter_ids, right=True, out_int32=True)

    if out is None:
        seg_lens = seg_ends - seg_starts
        seg_indptr = torch.zeros(loras + 1, dtype=torch.int32, device=device)
        torch.cumsum(seg_lens, dim=0, out=seg_indptr[1:])
        return LoRABatchInfo(
            bs=loras, use_cuda_graph=False, num_segments=loras, seg_lens=seg_lens,
            seg_indptr=seg_indptr, max_len=tokens, weight_indices=adapter_ids,
            lora_ranks=lora_ranks, scalings=scalings, permutation=permutation.to(torch.int32))

    # Slots past `loras` get no tokens, so a batch with fewer adapters leaves no stale segment.
    out.permutation[:tokens].copy_(permutation)
    out.seg_lens[:loras].copy_(seg_ends - seg_starts)
    out.seg_lens[loras:].zero_()
    out.seg_indptr[0:1].zero_()  # `out.seg_indptr[0] = 0` would wait for the GPU: SGLang #23738
    torch.cumsum(out.seg_lens, dim=0, out=out.seg_indptr[1:])
    out.lora_ranks[:loras].copy_(lora_ranks)
    out.scalings[:loras].copy_(scalings)
    return out


def check_batch(weight_indices: torch.Tensor, lora_ranks: torch.Tensor, scalings: torch.Tensor,
                out: StaticLoRABatchInfo | None) -> None:
    """Check what a routing by adapter takes.

    Does not synchronise. Raises TypeError or ValueError, naming the argument.
    """
    check_slots(lora_ranks, scalings)
    require(weight_indices, "weight_indices", torch.int32, lora_ranks.device, ndim=1)
    if out is not None:
        check_room(out, weight_indices.numel(), lora_ranks.numel(), lora_ranks.device)


def check_slots(lora_ranks: torch.Tensor, scalings: torch.Tensor) -> None:
    """Check the two per-slot tensors. `lora_ranks` says which device the batch is on.

    Does not synchronise. Raises TypeError or ValueError, naming the argument.
    """
    if not isinstance(lora_ranks, torch.Tensor):
        raise TypeError(f"lora_ranks must be a torch.Tensor, got {type(lora_ranks).__name__}")
    require(lora_ranks, "lora_ranks", torch.int32, lora_ranks.device, ndim=1)
    require(scalings, "scalings", torch.float32, lora_ranks.device, shape=lora_ranks.shape)
    if lora_ranks.numel() == 0:
        raise ValueError("lora_ranks must hold at least one slot, got none")


def check_room(out: StaticLoRABatchInfo, tokens: int, loras: int, device: torch.device) -> None:
    """Check that static buffers can take this batch.

    Does not synchronise. Raises TypeError or ValueError, naming the argument.
    """
    if not isinstance(out, StaticLoRABatchInfo):
        raise TypeError(f"out must be a StaticLoRABatchInfo, got {type(out).__name__}")
    if out.device != device:
        raise ValueError(f"out must be on {device}, got {out.device}")
    if tokens > out.max_len:
        raise ValueError(
            f"weight_indices has {tokens} tokens, above the capacity {out.max_len} of out")
    if loras > out.num_segments:
        raise ValueError(
            f"lora_ranks has {loras} slots, above the capacity {out.num_segments} of out")
