"""LoRAWeights: the adapters of one layer, stacked in slots that a graph can hold on to."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lorakit.batch import require


@dataclass
class LoRAWeights:
    """The A and B matrices of one layer, one slot an adapter, written in place.

    A layer may stack several projections of one input (q, k, v; gate, up): its slices. Slice `s`
    of slot `i` multiplies by `lora_a[i, s]`, and its B is `lora_b[i]`, rows `sum(slice_sizes[:s])`
    to `sum(slice_sizes[:s + 1])`. An adapter of rank r uses the first r ranks of its slot. The
    others may hold anything: no kernel lets them matter.
    """

    lora_a: torch.Tensor  # (max_loras, num_slices, R, K)
    lora_b: torch.Tensor  # (max_loras, sum(slice_sizes), R), of lora_a's dtype
    slice_sizes: tuple[int, ...]  # output size of each slice

    def __post_init__(self) -> None:
        require(self.lora_a, "lora_a", self.lora_a.dtype, self.lora_a.device, ndim=4)
        max_loras, num_slices, width, _ = self.lora_a.shape
        self.slice_sizes = tuple(self.slice_sizes)
        if len(self.slice_sizes) != num_slices or min(self.slice_sizes) < 1:
            raise ValueError(f"slice_sizes must hold {num_slices} positive sizes, as lora_a has "
                             f"{num_slices} slices; got {self.slice_sizes}")
        require(self.lora_b, "lora_b", self.lora_a.dtype, self.lora_a.device,
                shape=(max_loras, sum(self.slice_sizes), width))

    @classmethod
    def zeros(cls, max_loras: int, max_rank: int, hidden: int, slice_sizes: Sequence[int],
              dtype: torch.dtype, device: torch.device | str):
        """Allocate empty slots. Does not synchronise."""
        a_shape = (max_loras, len(slice_sizes), max_rank, hidden)
        b_shape = (max_loras, sum(slice_sizes), max_rank)
        for name, size in zip(("max_loras", "slice_sizes", "max_rank", "hidden"), a_shape):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        return cls(torch.zeros(a_shape, dtype=dtype, device=device),
                   torch.zeros(b_shape, dtype=dtype, device=device), tuple(slice_sizes))

    def load(self, slot: int, lora_a: Sequence[torch.Tensor], lora_b: Sequence[torch.Tensor]) -> None:
        """Write one adapter into a slot, in place, so that captured graphs see it.

        Args:
            slot: 0 <= slot < max_loras.
            lora_a: one (rank, K) matrix a slice, rank <= R, the same for all slices.
            lora_b: one (slice_size, rank) matrix a slice.

        A matrix on another device is copied to this one, which synchronises if it comes from
        pageable host memory: load between steps, not inside one.

        Raises:
            ValueError: naming the argument; then the slot has not changed.
        """
        max_loras, num_slices, width, hidden = self.lora_a.shape
        if not 0 <= slot < max_loras:
            raise ValueError(f"slot must be from 0 to {max_loras - 1}, got {slot}")
        if len(lora_a) != num_slices or len(lora_b) != num_slices:
            raise ValueError(f"lora_a and lora_b must hold one matrix for each of {num_slices} "
                             f"slices, got {len(lora_a)} and {len(lora_b)}")
        rank = lora_a[0].shape[0]
        if rank > width:
            raise ValueError(f"lora_a has rank {rank}, above the slot's width {width}")
        for s, size in enumerate(self.slice_sizes):
            for name, matrix, shape in ((f"lora_a[{s}]", lora_a[s], (rank, hidden)),
                                        (f"lora_b[{s}]", lora_b[s], (size, rank))):
                if tuple(matrix.shape) != shape:
                    raise ValueError(f"{name} must have shape {shape}, got {tuple(matrix.shape)}")
        start = 0
        for s, size in enumerate(self.slice_sizes):
            self.lora_a[slot, s, :rank].copy_(lora_a[s])
            self.lora_b[slot, start:start + size, :rank].copy_(lora_b[s])
            start += size
