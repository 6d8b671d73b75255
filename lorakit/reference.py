"""The oracles: routing and LoRA as plain loops, in Python integers and float64.

Slow on purpose. Check them by eye; the tests and the chapters check everything else against them.
They raise no errors of their own. They read tensors on the CPU, so `lora_linear` synchronises.
"""

from collections.abc import Sequence

import torch

from lorakit.adapters import LoRAWeights
from lorakit.batch import NO_ADAPTER


def route_by_adapter(slots: Sequence[int], max_loras: int) -> dict[str, list[int]]:
    """Group tokens by adapter slot, each group in token order, tokens without an adapter last.

    Args:
        slots: the slot of each token; a value outside [0, max_loras) is no adapter.

    Returns:
        seg_lens (max_loras), seg_indptr (max_loras + 1) and permutation (len(slots)), as lists.
    """
    permutation, seg_lens, seg_indptr = [], [], [0]
    for slot in range(max_loras):
        group = [token for token, s in enumerate(slots) if s == slot]
        permutation += group
        seg_lens.append(len(group))
        seg_indptr.append(len(permutation))
    permutation += [token for token, s in enumerate(slots) if not 0 <= s < max_loras]
    return {"seg_lens": seg_lens, "seg_indptr": seg_indptr, "permutation": permutation}


def lora_linear(x: torch.Tensor, weights: LoRAWeights, slots: Sequence[int],
                lora_ranks: Sequence[int], scalings: Sequence[float],
                base_output: torch.Tensor) -> torch.Tensor:
    """Each token's LoRA added to the base output, one token and one slice at a time.

    Args:
        x: (num_tokens, K). base_output: (num_tokens, N). Neither is changed.
        slots: the slot of each token, or NO_ADAPTER.
        lora_ranks, scalings: of the adapter in each slot.

    Returns:
        (num_tokens, N) float64, on the CPU.
    """
    x, out = x.cpu().double(), base_output.cpu().double()
    lora_a, lora_b = weights.lora_a.cpu().double(), weights.lora_b.cpu().double()
    for token, slot in enumerate(slots):
        if slot == NO_ADAPTER:
            continue
        rank, start = lora_ranks[slot], 0
        for s, size in enumerate(weights.slice_sizes):
            a = lora_a[slot, s, :rank]
            b = lora_b[slot, start:start + size, :rank]
            out[token, start:start + size] += scalings[slot] * (b @ (a @ x[token]))
            start += size
    return out
