"""The memory between the kernels: planes of h, and of the base product, which expand adds up."""

import math

import torch

from lorakit.kernels.tiles import linear_block, linear_splits


def scratch(shape: tuple[int, ...], device: torch.device, workspace: torch.Tensor | None) -> torch.Tensor:
    """Uninitialised float32 memory of a shape: the beginning of `workspace`, or a new tensor if None."""
    if workspace is None:
        return torch.empty(shape, dtype=torch.float32, device=device)
    return workspace[:math.prod(shape)].view(shape)


def most_planes(num_tokens: int) -> int:
    """Rows of h that shrink writes at most for any batch of up to so many tokens, one a token and plane:
    16 planes in decode, 4 to 1,024 tokens, then 2, as `tiles.hidden_splits` has it.
    """
    return max(16 * min(num_tokens, 256), 4 * min(num_tokens, 1024), 2 * num_tokens)


def base_planes(outputs: int, hidden: int, dtype: torch.dtype) -> int:
    """Planes of the base product, or 0 if it is whole and goes to `out`."""
    block_n, block_k, _ = linear_block(dtype)
    splits = linear_splits(outputs, hidden, block_n, block_k)
    return splits if splits > 1 else 0
