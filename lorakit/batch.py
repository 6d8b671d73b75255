"""LoRABatchInfo: what a multi-LoRA kernel must know about a batch, and nothing else.

The field names are SGLang's. Chapter *From requests to segments* derives each of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Self

import torch

NO_ADAPTER = -1
"""The slot of a token, or of a request, that uses the base model alone."""


@dataclass
class LoRABatchInfo:
    """A batch cut into segments: runs of tokens that share one adapter.

    Segment `i` owns places `seg_indptr[i]` to `seg_indptr[i + 1]` (exclusive). The token at
    place `p` is `permutation[p]`, or `p` itself where `permutation` is None. Places from
    `seg_indptr[-1]` on belong to no segment: no kernel uses them.

    All tensors lie on one device and are contiguous. Nothing here synchronises.
    """

    bs: int  # SGLang's second name for num_segments; always the same number
    use_cuda_graph: bool  # True if the tensors are static buffers, rewritten in place
    num_segments: int  # segments that the batch is cut into; kernels launch programs for each
    seg_lens: torch.Tensor  # (num_segments,) int32, tokens in each segment, 0 allowed
    seg_indptr: torch.Tensor  # (num_segments + 1,) int32, 0 and the running sum of seg_lens
    max_len: int  # kernels size their grid by it; tokens of a segment past it get no LoRA
    weight_indices: torch.Tensor  # (num_segments,) int32, slot of each segment, or NO_ADAPTER
    lora_ranks: torch.Tensor  # (max_loras,) int32, rank of the adapter in each slot, 0 if none
    scalings: torch.Tensor  # (max_loras,) float32, alpha / rank of the adapter in each slot
    permutation: torch.Tensor | None = None  # (num_tokens,) int32, token at each place


@dataclass(kw_only=True)
class StaticLoRABatchInfo(LoRABatchInfo):
    """The same batch in buffers whose addresses never change: the twin for CUDA graphs.

    A graph records addresses, so each step must write its batch into the same memory.
    `token_weight_indices` is the input (one slot a token, NO_ADAPTER in the unused tail); the
    inherited tensors are what `routing.route_by_adapter(..., out=self)` writes. `max_len` is
    the capacity in tokens and stays there, because a captured grid cannot grow.
    """

    token_weight_indices: torch.Tensor  # (max_tokens,) int32, the step's input

    def __post_init__(self) -> None:
        """Check once that the buffers fit each other: kernels write into them without looking.

        Raises:
            TypeError, ValueError: naming the field.
        """
        require_size(self.max_len, "max_len", at_least=1)
        require_size(self.num_segments, "num_segments", at_least=1)
        for name, size in (("seg_lens", self.num_segments), ("seg_indptr", self.num_segments + 1),
                           ("weight_indices", self.num_segments), ("lora_ranks", self.num_segments),
                           ("permutation", self.max_len), ("token_weight_indices", self.max_len)):
            require(getattr(self, name), name, torch.int32, self.device, shape=(size,))
        require(self.scalings, "scalings", torch.float32, self.device, shape=(self.num_segments,))

    @classmethod
    def empty(cls, max_tokens: int, max_loras: int, device: torch.device | str) -> Self:
        """Allocate buffers for at most `max_tokens` tokens over `max_loras` slots.

        The buffers hold a valid batch at once: no token has an adapter. Does not synchronise.

        Raises:
            TypeError, ValueError: if `max_tokens` or `max_loras` is no int of at least 1.
        """
        require_size(max_tokens, "max_tokens", at_least=1)
        require_size(max_loras, "max_loras", at_least=1)

        def ints(*shape: int, fill: int = 0) -> torch.Tensor:
            return torch.full(shape, fill, dtype=torch.int32, device=device)

        return cls(
            bs=max_loras,
            use_cuda_graph=True,
            num_segments=max_loras,
            seg_lens=ints(max_loras),
            seg_indptr=ints(max_loras + 1),
            max_len=max_tokens,
            weight_indices=torch.arange(max_loras, dtype=torch.int32, device=device),
            lora_ranks=ints(max_loras),
            scalings=torch.zeros(max_loras, dtype=torch.float32, device=device),
            permutation=torch.arange(max_tokens, dtype=torch.int32, device=device),
            token_weight_indices=ints(max_tokens, fill=NO_ADAPTER),
        )

    def copy_from(self, weight_indices: torch.Tensor, lora_ranks: torch.Tensor,
                  scalings: torch.Tensor) -> None:
        """Write one step's input in place, and make the tail harmless. Run it before a replay.

        Args:
            weight_indices: (num_tokens,) int32, slot of each token; num_tokens <= max_tokens.
            lora_ranks: (n,) int32, with n <= max_loras; the slots past n get rank 0.
            scalings: (n,) float32, as many as `lora_ranks`.

        All on the buffers' device. Launches a few copies and does not synchronise.

        Raises:
            TypeError, ValueError: naming the argument; then no buffer has changed.
        """
        require(weight_indices, "weight_indices", torch.int32, self.device, ndim=1)
        require(lora_ranks, "lora_ranks", torch.int32, self.device, ndim=1)
        require(scalings, "scalings", torch.float32, self.device, shape=lora_ranks.shape)
        tokens, loras = weight_indices.numel(), lora_ranks.numel()
        if tokens > self.max_len:
            raise ValueError(
                f"weight_indices has {tokens} tokens, above the capacity {self.max_len}")
        if loras > self.num_segments:
            raise ValueError(
                f"lora_ranks has {loras} slots, above the capacity {self.num_segments}")
        self.token_weight_indices[:tokens].copy_(weight_indices)
        self.token_weight_indices[tokens:].fill_(NO_ADAPTER)
        self.lora_ranks[:loras].copy_(lora_ranks)
        self.lora_ranks[loras:].zero_()
        self.scalings[:loras].copy_(scalings)
        self.scalings[loras:].zero_()

    @property
    def device(self) -> torch.device:
        """Where the buffers lie. Does not synchronise."""
        return self.seg_indptr.device


def slots_to_device(slots: Sequence[int], max_loras: int,
                    device: torch.device | str) -> torch.Tensor:
    """Turn the host's list of slots into the int32 tensor that the routing takes.

    Here, on the host, a slot can still be checked for free; on the device it could be read only
    by waiting for the GPU. The copy goes through pinned memory and does not synchronise.

    Args:
        slots: one integer a token (or a request), each NO_ADAPTER or in [0, max_loras).

    Returns:
        (len(slots),) int32 on `device`.

    Raises:
        TypeError: if a slot is no integer.
        ValueError: if a slot is out of range.
    """
    for place, slot in enumerate(slots):
        if not isinstance(slot, Integral) or isinstance(slot, bool):
            raise TypeError(f"slots[{place}] must be an int, got {type(slot).__name__}")
        if slot != NO_ADAPTER and not 0 <= slot < max_loras:
            raise ValueError(f"slots[{place}] is {slot}; expected {NO_ADAPTER} (no adapter) or "
                             f"a slot from 0 to {max_loras - 1}")
    host = torch.tensor(slots, dtype=torch.int32)
    if torch.device(device).type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)


def require(tensor: torch.Tensor, name: str, dtype: torch.dtype | tuple[torch.dtype, ...],
            device: torch.device, *, shape: tuple[int, ...] | None = None,
            ndim: int | None = None) -> None:
    """Check a tensor's metadata, which the host holds, so that this never synchronises.

    Raises:
        TypeError: if it is no tensor, or of another dtype.
        ValueError: if it has another shape, another device, or is not contiguous.
    """
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    dtypes = dtype if isinstance(dtype, tuple) else (dtype,)
    if tensor.dtype not in dtypes:
        wanted = " or ".join(str(d).removeprefix("torch.") for d in dtypes)
        raise TypeError(f"{name} must be {wanted}, got {str(tensor.dtype).removeprefix('torch.')}")
    if tensor.device != device:
        raise ValueError(f"{name} must be on {device}, got {tensor.device}")
    if ndim is not None and tensor.dim() != ndim:
        raise ValueError(f"{name} must have {ndim} dimension(s), got shape {tuple(tensor.shape)}")
    if shape is not None and tensor.shape != shape:
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(tensor.shape)}")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous, got strides {tensor.stride()}")


def require_size(size: int, name: str, at_least: int = 0) -> None:
    """Check a size that the host passes. Does not synchronise.

    Raises:
        TypeError: if it is no int.
        ValueError: if it is below `at_least`.
    """
    if not isinstance(size, Integral) or isinstance(size, bool):
        raise TypeError(f"{name} must be an int, got {type(size).__name__}")
    if size < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {size}")
