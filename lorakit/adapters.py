"""LoRAWeights: the adapters of one layer, stacked in slots that a graph can hold on to.

Chapter *From requests to segments* says what a slot is.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

from lorakit.batch import require, require_size

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass
class LoRAWeights:
    """The A and B matrices of one layer, one slot an adapter, written in place.

    A layer may stack several projections of one input (q, k, v; gate, up): its slices. Slice `s`
    of slot `i` multiplies by `lora_a[i, s]`, and its B is `lora_b[i]`, rows `sum(slice_sizes[:s])`
    to `sum(slice_sizes[:s + 1])`. An adapter of rank r uses the first r ranks of its slot. The
    others may hold anything: no kernel lets them matter. Nothing but `load` can synchronise.

    Raises:
        TypeError, ValueError: naming the argument, if the tensors do not fit each other.
    """

    lora_a: torch.Tensor  # (max_loras, num_slices, R, K)
    lora_b: torch.Tensor  # (max_loras, sum(slice_sizes), R), of lora_a's dtype
    slice_sizes: tuple[int, ...]  # output size of each slice

    def __post_init__(self) -> None:
        if not isinstance(self.lora_a, torch.Tensor):
            raise TypeError(f"lora_a must be a torch.Tensor, got {type(self.lora_a).__name__}")
        require(self.lora_a, "lora_a", FLOATS, self.lora_a.device, ndim=4)
        max_loras, num_slices, width, hidden = self.lora_a.shape
        require_size(hidden, "lora_a's hidden size", at_least=1)
        self.slice_sizes = sizes_of(self.slice_sizes)
        if len(self.slice_sizes) != num_slices or min(self.slice_sizes, default=0) < 1:
            raise ValueError(f"slice_sizes must hold {num_slices} positive sizes, as lora_a has "
                             f"{num_slices} slices; got {self.slice_sizes}")
        require(self.lora_b, "lora_b", self.lora_a.dtype, self.lora_a.device,
                shape=(max_loras, sum(self.slice_sizes), width))

    @classmethod
    def zeros(cls, max_loras: int, max_rank: int, hidden: int, slice_sizes: Sequence[int],
              dtype: torch.dtype, device: torch.device | str) -> Self:
        """Allocate empty slots. Does not synchronise.

        Args:
            max_loras: slots. max_rank: R, the width of a slot. hidden: K, the input size.
            slice_sizes: output size of each stacked projection, one or more.
            dtype: float16, bfloat16, float32 or float64 (kernels do not take float64).

        Raises:
            TypeError, ValueError: naming the argument.
        """
        slice_sizes = sizes_of(slice_sizes)
        for name, size in (("max_loras", max_loras), ("max_rank", max_rank), ("hidden", hidden),
                           ("slice_sizes", min(slice_sizes, default=0))):
            require_size(size, name, at_least=1)
        a_shape = (max_loras, len(slice_sizes), max_rank, hidden)
        b_shape = (max_loras, sum(slice_sizes), max_rank)
        return cls(torch.zeros(a_shape, dtype=dtype, device=device),
                   torch.zeros(b_shape, dtype=dtype, device=device), slice_sizes)

    def load(self, slot: int, lora_a: Sequence[torch.Tensor],
             lora_b: Sequence[torch.Tensor]) -> int:
        """Write one adapter into a slot, in place, so that captured graphs see it.

        Args:
            slot: 0 <= slot < max_loras.
            lora_a: one (rank, K) matrix a slice, rank <= R, the same for all slices.
            lora_b: one (slice_size, rank) matrix a slice.

        Returns:
            The rank, which belongs into the batch's `lora_ranks` at this slot.

        The slot's other ranks become zero. Matrices are converted to the slots' dtype (a large
        float32 overflows in float16) and copied from any device, which synchronises if they come
        from pageable host memory: load between steps, not inside one.

        Raises:
            TypeError, ValueError: naming the argument; then the slot has not changed.
        """
        require_size(slot, "slot")
        max_loras, num_slices, width, hidden = self.lora_a.shape
        if not 0 <= slot < max_loras:
            raise ValueError(f"slot must be from 0 to {max_loras - 1}, got {slot}")
        if len(lora_a) != num_slices or len(lora_b) != num_slices:
            raise ValueError(f"lora_a and lora_b must hold one matrix for each of {num_slices} "
                             f"slices, got {len(lora_a)} and {len(lora_b)}")
        for name, matrices in (("lora_a", lora_a), ("lora_b", lora_b)):
            for s, matrix in enumerate(matrices):
                if not isinstance(matrix, torch.Tensor) or not matrix.is_floating_point():
                    raise TypeError(f"{name}[{s}] must be a floating-point torch.Tensor")
                if matrix.dim() != 2 or matrix.is_meta:
                    raise ValueError(f"{name}[{s}] must be a matrix with data, got shape "
                                     f"{tuple(matrix.shape)} on {matrix.device}")
        rank = lora_a[0].shape[0]
        if rank > width:
            raise ValueError(f"lora_a has rank {rank}, above the slot's width {width}")
        for s, size in enumerate(self.slice_sizes):
            for name, matrix, shape in ((f"lora_a[{s}]", lora_a[s], (rank, hidden)),
                                        (f"lora_b[{s}]", lora_b[s], (size, rank))):
                if tuple(matrix.shape) != shape:
                    raise ValueError(f"{name} must have shape {shape}, got {tuple(matrix.shape)}")
        self.lora_a[slot, :, rank:].zero_()
        self.lora_b[slot, :, rank:].zero_()
        start = 0
        for s, size in enumerate(self.slice_sizes):
            self.lora_a[slot, s, :rank].copy_(lora_a[s])
            self.lora_b[slot, start:start + size, :rank].copy_(lora_b[s])
            start += size
        return rank


def sizes_of(slice_sizes: Sequence[int]) -> tuple[int, ...]:
    """The sizes as a tuple of ints. Does not synchronise. Raises TypeError if one is no int."""
    try:
        return tuple(operator.index(size) for size in slice_sizes)
    except TypeError:
        raise TypeError(f"slice_sizes must be ints, got {slice_sizes!r}") from None
