"""lora_linear: the LoRA part of a linear layer, for a batch that mixes adapters; and
linear_with_lora: the layer itself with it.
"""

import torch

from lorakit import runtime
from lorakit.adapters import LoRAWeights
from lorakit.batch import LoRABatchInfo, require, require_size
from lorakit.kernels.expand import expand
from lorakit.kernels.linear import linear
from lorakit.kernels.shrink import shrink
from lorakit.kernels.tiles import (
    ceil_div, has_pdl, most_tiles, one_by_one, one_by_one_shrinks, rank_block, token_block)
from lorakit.kernels.tokens import expand_tokens, shrink_tokens
from lorakit.kernels.workspace import base_planes, most_planes

MAX_GRID = 65_535  # CUDA's limit for the second and third axis of a grid
MAX_FUSED_TOKENS = 32  # beyond, cuBLAS and then LoRA is as fast (make bench)
MAX_PLACES = 256  # of a buffer, for kernels that have a program a place or look through all of them


def lora_linear(x: torch.Tensor, weights: LoRAWeights, batch: LoRABatchInfo,
                base_output: torch.Tensor, workspace: torch.Tensor | None = None) -> torch.Tensor:
    """Add each token's LoRA, scaling * (x A^T) B^T, into the base layer's output, in place.

    For inference: autograd does not see it. *From requests to segments* derives what `batch`
    holds, and *The seg_indptr sync bug* runs this in a graph at the sizes of a real layer.

    Args:
        x: (num_tokens, K) float16, bfloat16 or float32, the layer's input. The interpreter
            (no GPU) takes float16 and float32.
        weights: the layer's adapters, of x's dtype.
        batch: the segments, from `lorakit.routing`. Tokens past num_tokens are left out.
        base_output: (num_tokens, N), of x's dtype: x W^T. Tokens without an adapter keep it.
        workspace: float32, one axis of at least `workspace_size(weights, num_tokens)` elements, not in
            the memory of x or base_output: room for what shrink leaves to expand. Calls in one stream
            may share it, and it may hold anything. None allocates it in the call, in a capture from
            the graph's pool.

    Returns:
        base_output.

    All on one device and contiguous. Two launches (shrink, expand), no synchronisation, can be
    captured, and deterministic (the last bits may depend on the number of tokens and segments, and on
    which of the tensors begin at a multiple of 16 bytes). Sums are in float32. The values inside
    `batch` lie on the device, where they cannot be checked; a rank above the slot's width is cut to
    the width. Which kernels run depends on sizes that the host knows, never on the values: a captured
    graph serves every mix. On Hopper and later, expand starts while shrink still runs. *How fast can
    it go?* explains the kernels, and `appendix/speed.md` compares them with others.

    Raises:
        TypeError, ValueError: naming the argument, before any launch.
        RuntimeError: for CPU tensors where Triton does not interpret.
    """
    check_batch(x, weights, batch)
    require(base_output, "base_output", x.dtype, x.device,
            shape=(x.shape[0], weights.lora_b.shape[1]))
    check_workspace(workspace, weights, x.shape[0], x=x, base_output=base_output)
    alone = places_of(batch) <= MAX_PLACES and one_by_one(x.shape[0], batch.num_segments)
    shrinks_alone = alone and one_by_one_shrinks(x.shape[1], weights.lora_b.shape[2])
    h = (shrink_tokens if shrinks_alone else shrink)(x, weights.lora_a, batch, workspace=workspace)
    return (expand_tokens if alone else expand)(
        h, weights.lora_b, base_output, batch, weights.slice_sizes)


def linear_with_lora(x: torch.Tensor, base_weight: torch.Tensor, weights: LoRAWeights,
                     batch: LoRABatchInfo, out: torch.Tensor | None = None,
                     workspace: torch.Tensor | None = None) -> torch.Tensor:
    """A linear layer with each token's LoRA: x W^T + scaling * (x A^T) B^T.

    Args:
        x: (num_tokens, K) float16, bfloat16 or float32.
        base_weight: (N, K), of x's dtype: W.
        weights, batch, workspace: as in `lora_linear`. The base product's parts are in it too.
        out: (num_tokens, N), of x's dtype, written whatever it holds; not in the memory of x or
            base_weight. None allocates it.

    Returns:
        out.

    All on one device and contiguous. On Hopper and later, for up to 32 tokens of 16 bits, the base
    product is a kernel of ours that runs beside shrink and leaves its parts for expand to add up
    (`fuses` says when). Elsewhere it is `torch.mm`, then `lora_linear`. No synchronisation; can be
    captured; our kernels are deterministic. `make bench` measures both.

    Raises:
        TypeError, ValueError: naming the argument, before any launch.
        RuntimeError: for CPU tensors where Triton does not interpret.
    """
    check_batch(x, weights, batch)
    outputs = weights.lora_b.shape[1]
    require(base_weight, "base_weight", x.dtype, x.device, shape=(outputs, x.shape[1]))
    if out is None:
        out = torch.empty((x.shape[0], outputs), dtype=x.dtype, device=x.device)
    require(out, "out", x.dtype, x.device, shape=(x.shape[0], outputs))
    require_apart(out, "out", x=x, base_weight=base_weight)
    check_workspace(workspace, weights, x.shape[0], x=x, out=out)
    if fuses(x, batch):
        return fused(x, base_weight, weights, batch, out, workspace)
    torch.mm(x, base_weight.t(), out=out)
    return lora_linear(x, weights, batch, out, workspace)


def workspace_size(weights: LoRAWeights, max_tokens: int) -> int:
    """Elements of a workspace for any batch of up to `max_tokens` tokens, in either operation.

    One that is long enough for the largest layer serves all layers of a model, one after the other.
    Does not synchronise. Raises TypeError or ValueError, naming max_tokens.
    """
    require_size(max_tokens, "max_tokens")
    _, num_slices, width, _ = weights.lora_a.shape
    return base_size(weights, max_tokens) + most_planes(max_tokens) * num_slices * width


def base_size(weights: LoRAWeights, num_tokens: int) -> int:
    """Elements at the beginning of a workspace for the base product, a multiple of four, so that what
    comes behind them begins at a multiple of 16 bytes. Does not synchronise.
    """
    outputs, hidden = weights.lora_b.shape[1], weights.lora_a.shape[3]
    planes = base_planes(outputs, hidden, weights.lora_a.dtype)
    return 4 * ceil_div(planes * min(num_tokens, MAX_FUSED_TOKENS) * outputs, 4)


def fuses(x: torch.Tensor, batch: LoRABatchInfo) -> bool:
    """True if `linear_with_lora` runs its own base product: on Hopper or later, for a few tokens of 16
    bits, cut by adapter. Does not synchronise.
    """
    return (has_pdl(x.device) and x.dtype != torch.float32 and 0 < x.shape[0] <= MAX_FUSED_TOKENS
            and x.shape[0] <= batch.max_len and places_of(batch) <= min(MAX_PLACES, batch.max_len))


def places_of(batch: LoRABatchInfo) -> int:
    """Places of a batch cut by adapter; of one cut by request, more than any kernel here looks through.
    Does not synchronise.
    """
    return MAX_PLACES + 1 if batch.permutation is None else batch.permutation.numel()


def fused(x: torch.Tensor, base_weight: torch.Tensor, weights: LoRAWeights, batch: LoRABatchInfo,
          out: torch.Tensor, workspace: torch.Tensor | None = None) -> torch.Tensor:
    """`linear_with_lora` by our kernels, for checked arguments and at least one token."""
    alone = one_by_one(x.shape[0], batch.num_segments)
    base = linear(x, base_weight, out, workspace)
    rest = None if workspace is None else workspace[base_size(weights, x.shape[0]):]
    h = (shrink_tokens if alone else shrink)(x, weights.lora_a, batch, behind=True, workspace=rest)
    return (expand_tokens if alone else expand)(
        h, weights.lora_b, out, batch, weights.slice_sizes, base)


def require_apart(written: torch.Tensor, name: str, **others: torch.Tensor) -> None:
    """ValueError, naming `name`, if its memory overlaps that of another contiguous tensor, which is still
    read when it is written. Does not synchronise.
    """
    for other_name, other in others.items():
        if (written.data_ptr() < other.data_ptr() + other.nbytes
                and other.data_ptr() < written.data_ptr() + written.nbytes):
            raise ValueError(f"{name} must not share memory with {other_name}")


def check_workspace(workspace: torch.Tensor | None, weights: LoRAWeights, num_tokens: int,
                    **others: torch.Tensor) -> None:
    """Check a workspace if there is one. Does not synchronise. Raises as the operations do."""
    if workspace is not None:
        require(workspace, "workspace", torch.float32, weights.lora_a.device, ndim=1)
        least = workspace_size(weights, num_tokens)
        if workspace.numel() < least:
            raise ValueError(f"workspace must have at least {least} elements for {num_tokens} tokens, "
                             f"got {workspace.numel()}; see workspace_size")
        require_apart(workspace, "workspace", **others)


def check_batch(x: torch.Tensor, weights: LoRAWeights, batch: LoRABatchInfo) -> None:
    """Check what both operations take. Does not synchronise. Raises as they do."""
    if not isinstance(weights, LoRAWeights):
        raise TypeError(f"weights must be LoRAWeights, got {type(weights).__name__}")
    if not isinstance(batch, LoRABatchInfo):
        raise TypeError(f"batch must be a LoRABatchInfo, got {type(batch).__name__}")
    max_loras, _, width, hidden = weights.lora_a.shape
    device = weights.lora_a.device
    runtime.require_usable(device, "weights")
    require(x, "x", runtime.KERNEL_DTYPES, device, ndim=2)
    require(x, "x", weights.lora_a.dtype, device, shape=(x.shape[0], hidden))
    require(batch.lora_ranks, "batch.lora_ranks", torch.int32, device, shape=(max_loras,))
    require(batch.scalings, "batch.scalings", torch.float32, device, shape=(max_loras,))
    require_size(batch.max_len, "batch.max_len")
    if batch.max_len >= 2**31:
        raise ValueError(f"batch.max_len must be below 2**31, got {batch.max_len}")
    require_size(batch.num_segments, "batch.num_segments")
    if batch.num_segments > MAX_GRID:
        raise ValueError(f"batch.num_segments must be at most {MAX_GRID}, got "
                         f"{batch.num_segments}; route by adapter, or split the batch")
    segments = (batch.num_segments,)
    require(batch.weight_indices, "batch.weight_indices", torch.int32, device, shape=segments)
    require(batch.seg_indptr, "batch.seg_indptr", torch.int32, device,
            shape=(batch.num_segments + 1,))
    if batch.permutation is not None:  # static buffers may hold room for more tokens than x has
        require(batch.permutation, "batch.permutation", torch.int32, device, ndim=1,
                shape=None if batch.use_cuda_graph else (x.shape[0],))
        if batch.permutation.numel() < x.shape[0]:
            raise ValueError(f"batch.permutation must have a place for each of x's {x.shape[0]} tokens, "
                             f"got {batch.permutation.numel()}")
    places = x.shape[0] if batch.permutation is None else batch.permutation.numel()
    tiles = most_tiles(places, batch, token_block(x.shape[0], batch.num_segments, rank_block(width)))
    if tiles > MAX_GRID:
        raise ValueError(f"batch must need at most {MAX_GRID} tiles, and {places} tokens over "
                         f"{batch.num_segments} segments may need {tiles}; split the batch")
