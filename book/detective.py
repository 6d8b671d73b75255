"""What the detective cases of Part III share: one layer whose output says which adapter served a token.

Adapter `i` adds 10 * (i + 1) to every output of a token of ones, and the base model gives zero. So an
output reads 10 where adapter 0 has worked, 30 for adapter 2, 0 for nobody, and 40 for 0 and 2 together.
"""

from collections.abc import Sequence

import torch

from lorakit import NO_ADAPTER, runtime
from lorakit.adapters import LoRAWeights

HIDDEN, OUT, RANK = 512, 256, 16
DTYPE = torch.float16  # exact here, on a GPU and in the interpreter


def weights(max_loras: int, device: torch.device | None = None) -> LoRAWeights:
    """The layer's adapters, one in each slot, of rank 16. Synchronises.

    The first rank of A takes the mean of a token's elements, and that of B multiplies it.
    """
    device = device or runtime.device()
    layer = LoRAWeights.zeros(max_loras, RANK, HIDDEN, [OUT], DTYPE, device)
    for slot in range(max_loras):
        layer.load(slot, *adapter(10 * (slot + 1)))
    return layer


def adapter(adds: float) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """A and B of an adapter that adds that number, on the CPU: what `LoRAWeights.load` takes."""
    lora_a, lora_b = torch.zeros(RANK, HIDDEN, dtype=DTYPE), torch.zeros(OUT, RANK, dtype=DTYPE)
    lora_a[0], lora_b[:, 0] = 1 / HIDDEN, adds
    return [lora_a], [lora_b]


def tokens(count: int, device: torch.device | None = None) -> torch.Tensor:
    """(count, HIDDEN): tokens of ones."""
    return torch.ones(count, HIDDEN, dtype=DTYPE, device=device or runtime.device())


def nothing(count: int, device: torch.device | None = None) -> torch.Tensor:
    """(count, OUT): what the base model gives, zeros."""
    return torch.zeros(count, OUT, dtype=DTYPE, device=device or runtime.device())


def ranks(max_loras: int, device: torch.device | None = None) -> torch.Tensor:
    """(max_loras,) int32: `lora_ranks`."""
    return torch.full((max_loras,), RANK, dtype=torch.int32, device=device or runtime.device())


def scalings(max_loras: int, device: torch.device | None = None) -> torch.Tensor:
    """(max_loras,) float32: `scalings`, all one."""
    return torch.ones(max_loras, device=device or runtime.device())


def read(out: torch.Tensor) -> list[int]:
    """What was added to each token. An output that is not the same in all columns is an error."""
    columns = out.float().cpu()
    if not torch.equal(columns, columns[:, :1].expand_as(columns)):
        raise ValueError(f"the outputs of a token differ: {columns[:, :3].tolist()} ...")
    return [round(value) for value in columns[:, 0].tolist()]


def expected(slots: Sequence[int]) -> list[int]:
    """What should have been added."""
    return [0 if slot == NO_ADAPTER else 10 * (slot + 1) for slot in slots]


def write(buffer: torch.Tensor, values: Sequence[float]) -> None:
    """Write numbers of the host into the head of a buffer, through pinned memory, without a wait."""
    host = torch.tensor(values, dtype=buffer.dtype)
    if buffer.is_cuda:
        host = host.pin_memory()
    buffer[:len(values)].copy_(host, non_blocking=True)
