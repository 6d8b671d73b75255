"""Overwrite free memory: a graph that reads what nobody holds is right only until somebody does.

Chapters *The silent rules* (S7, S9) and *Right until the next prompt* derive it.
"""

import torch

SMALL, LARGE = 2**16, 2**24  # pinned blocks, in bytes
MANY, FEW = 64, 4  # small and large ones of each size; a free block is the first to be handed out


@torch.inference_mode()
def zero_free_pinned() -> None:
    """Write zeros into the free blocks of PyTorch's pinned memory. Synchronises.

    Zeros, since a kernel that takes them for indices stays inside of its tensors. The allocator keeps a
    list of free blocks for each power of two. Pins up to some 140 MiB, and leaves them to it.
    """
    torch.cuda.synchronize()  # a block is free once its copies are done
    sizes = [2**power for power in range(LARGE.bit_length())]
    _ = [torch.empty(size, dtype=torch.uint8, pin_memory=True).zero_()  # a list: all of them at once
         for size in sizes for _ in range(MANY if size <= SMALL else FEW)]


@torch.inference_mode()
def zero_free_device() -> None:
    """Write zeros into the memory of the current GPU that PyTorch's allocator has free for the current
    stream. The pools of graphs are left alone. Synchronises."""
    torch.cuda.synchronize()
    stream = torch.cuda.current_stream().cuda_stream
    here = torch.cuda.current_device()
    free = [block["size"] for segment in torch.cuda.memory_snapshot()
            if segment["device"] == here and segment["stream"] == stream
            and tuple(segment["segment_pool_id"]) == (0, 0)
            for block in segment["blocks"] if block["state"] == "inactive"]
    _ = [torch.empty(size, dtype=torch.uint8, device="cuda").zero_() for size in sorted(free, reverse=True)]
    torch.cuda.synchronize()
