"""Batches that tests share: random ones, and the hard cases by name."""

import random
from dataclasses import dataclass

import torch

from lorakit import NO_ADAPTER, runtime, slots_to_device
from lorakit.adapters import LoRAWeights

DEVICE = runtime.device()


@dataclass
class Case:
    """A batch on the host: what a test feeds to the code and to the reference alike."""

    slots: list[int]  # of each token
    ranks: list[int]  # of each slot
    scalings: list[float]  # of each slot

    def tensors(self, device=DEVICE) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """weight_indices, lora_ranks and scalings on the device."""
        return (slots_to_device(self.slots, len(self.ranks), device),
                torch.tensor(self.ranks, dtype=torch.int32, device=device),
                torch.tensor(self.scalings, dtype=torch.float32, device=device))


def random_case(rng: random.Random, max_tokens: int, max_loras: int, max_rank: int = 16) -> Case:
    """Any size, any mix: few or many adapters, some of them empty, some tokens with none."""
    tokens, loras = rng.randint(1, max_tokens), rng.randint(1, max_loras)
    in_use = rng.sample(range(loras), rng.randint(1, loras)) + [NO_ADAPTER] * rng.randint(0, 1)
    skew = rng.choice([0.0, 1.5])  # 0: uniform; 1.5: a few adapters have most tokens
    weights = [1 / (place + 1) ** skew for place in range(len(in_use))]
    return Case(
        slots=rng.choices(in_use, weights, k=tokens),
        ranks=[rng.choice([0, 1, max_rank // 2, max_rank]) for _ in range(loras)],
        scalings=[rng.choice([0.25, 0.5, 1.0, 2.0]) for _ in range(loras)])


def hard_cases(max_tokens: int, max_loras: int) -> dict[str, Case]:
    """The corners that the suites of the serving systems cover, by name."""
    last = max_loras - 1
    mixed = [(-1, 0, last)[i % 3] for i in range(max_tokens)]

    def case(slots: list[int]) -> Case:
        return Case(slots, [(8, 16, 0, 1)[i % 4] for i in range(max_loras)],
                    [0.5 + i / 8 for i in range(max_loras)])

    return {
        "one token": case([last]),
        "one token without an adapter": case([NO_ADAPTER]),
        "one adapter has everything": case([last] * max_tokens),
        "no token has an adapter": case([NO_ADAPTER] * max_tokens),
        "only the ends, and none": case(mixed),
        "every slot in turn, full": case([i % max_loras for i in range(max_tokens)]),
        "descending slots": case(sorted((i % max_loras for i in range(max_tokens)), reverse=True)),
    }


def random_weights(ranks: list[int], width: int, hidden: int, slice_sizes: tuple[int, ...],
                   dtype: torch.dtype, seed: int = 0, device=DEVICE) -> LoRAWeights:
    """Random adapters whose unused rows are NaN: what must not matter then shows if it does."""
    generator = torch.Generator().manual_seed(seed)
    weights = LoRAWeights.zeros(len(ranks), width, hidden, slice_sizes, dtype, device)
    a = torch.randn(weights.lora_a.shape, generator=generator) / hidden**0.5
    b = torch.randn(weights.lora_b.shape, generator=generator) / width**0.5
    for slot, rank in enumerate(ranks):
        a[slot, :, rank:] = float("nan")
        b[slot, :, rank:] = float("nan")
    weights.lora_a.copy_(a)
    weights.lora_b.copy_(b)
    return weights
