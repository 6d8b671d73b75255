"""lora_linear: the LoRA part of a linear layer, for a batch that mixes adapters."""

import torch

from lorakit import runtime
from lorakit.adapters import LoRAWeights
from lorakit.batch import LoRABatchInfo, require, require_size
from lorakit.kernels.expand import expand
from lorakit.kernels.shrink import shrink

MAX_SEGMENTS = 65_535  # CUDA's limit for the last axis of a grid


def lora_linear(x: torch.Tensor, weights: LoRAWeights, batch: LoRABatchInfo,
                base_output: torch.Tensor) -> torch.Tensor:
    """Add each token's LoRA, scaling * (x A^T) B^T, into the base layer's output, in place.

    For inference: autograd does not see it. *From requests to segments* derives what `batch`
    holds, and *The seg_indptr sync bug* runs this in a graph at the sizes of a real layer.

    Args:
        x: (num_tokens, K) float16, bfloat16 or float32, the layer's input. The interpreter
            (no GPU) takes float16 and float32.
        weights: the layer's adapters, of x's dtype.
        batch: the segments, from `lorakit.routing`. Tokens past num_tokens are left out.
        base_output: (num_tokens, N), of x's dtype: x W^T. Tokens without an adapter keep it.

    Returns:
        base_output.

    All on one device and contiguous. Two launches (shrink, expand), no synchronisation, can be
    captured, and deterministic. Sums are in float32. The values inside `batch` lie on the device,
    where they cannot be checked; a rank above the slot's width is cut to the width.

    Raises:
        TypeError, ValueError: naming the argument, before any launch.
        RuntimeError: for CPU tensors where Triton does not interpret.
    """
    if not isinstance(weights, LoRAWeights):
        raise TypeError(f"weights must be LoRAWeights, got {type(weights).__name__}")
    if not isinstance(batch, LoRABatchInfo):
        raise TypeError(f"batch must be a LoRABatchInfo, got {type(batch).__name__}")
    max_loras, _, _, hidden = weights.lora_a.shape
    device = weights.lora_a.device
    runtime.require_usable(device, "weights")
    require(x, "x", runtime.KERNEL_DTYPES, device, ndim=2)
    require(x, "x", weights.lora_a.dtype, device, shape=(x.shape[0], hidden))
    require(base_output, "base_output", x.dtype, device,
            shape=(x.shape[0], weights.lora_b.shape[1]))
    require(batch.lora_ranks, "batch.lora_ranks", torch.int32, device, shape=(max_loras,))
    require(batch.scalings, "batch.scalings", torch.float32, device, shape=(max_loras,))
    require_size(batch.max_len, "batch.max_len")
    require_size(batch.num_segments, "batch.num_segments")
    if batch.num_segments > MAX_SEGMENTS:
        raise ValueError(f"batch.num_segments must be at most {MAX_SEGMENTS}, got "
                         f"{batch.num_segments}; route by adapter, or split the batch")
    segments = (batch.num_segments,)
    require(batch.weight_indices, "batch.weight_indices", torch.int32, device, shape=segments)
    require(batch.seg_indptr, "batch.seg_indptr", torch.int32, device,
            shape=(batch.num_segments + 1,))
    if batch.permutation is not None:  # static buffers may hold room for more tokens than x has
        require(batch.permutation, "batch.permutation", torch.int32, device, ndim=1,
                shape=None if batch.use_cuda_graph else (x.shape[0],))

    h = shrink(x, weights.lora_a, batch)
    return expand(h, weights.lora_b, base_output, batch, weights.slice_sizes)
