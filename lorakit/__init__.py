"""lorakit: many LoRA adapters in one batch, in one CUDA graph. The package behind the book."""

from lorakit import runtime  # first: it settles how Triton will run
from lorakit.batch import NO_ADAPTER, LoRABatchInfo, StaticLoRABatchInfo, slots_to_device

__all__ = ["NO_ADAPTER", "LoRABatchInfo", "StaticLoRABatchInfo", "runtime", "slots_to_device"]
