"""Checkers for the exercises of *Right until the next prompt*."""

import gc
from collections.abc import Callable

import torch

from book import detective
from lorakit import runtime, timing

LORAS, HELD_MS = 16, 20.0
POISON = 7.0


def check_recycled(server: Callable[[], object]) -> None:
    """*Right until the next prompt*: right, whatever is pinned after the capture. Needs a GPU."""
    served, batches = server(), [list(range(LORAS)), [3, 3, 0, 15], [12, 9]]
    gc.collect()

    def check(when: str) -> None:
        for slots in batches:
            got, right = detective.read(served.decode(list(slots))), detective.expected(slots)
            assert got == right, f"{when}, slots {slots}: got {got}, not {right}"

    for _ in range(3):
        check("after the start")
    ms = timing.host_ms(lambda: served.decode(batches[0]), queued_ms=HELD_MS)
    assert ms < HELD_MS / 2, (f"right values, but decode holds the host for {ms:.1f} ms behind {HELD_MS:.0f} ms of "
                              "queued work")
    held = []  # what is pinned stays, and so no later buffer gets the same block
    for size in (2 ** power for power in range(2, 21)):
        torch.cuda.synchronize()
        held += [torch.full((size // 4,), POISON).pin_memory() for _ in range(8)]
        check(f"after buffers of {size} bytes were pinned")
    print("passed")


def check_keep(keep_class: Callable[[], object]) -> None:
    """*Right until the next prompt*: a mode that keeps what is copied to a device, and nothing else."""
    device = runtime.device() if runtime.device().type == "cuda" else torch.device("meta")
    static, scratch = torch.zeros(8, device=device), torch.zeros(8)

    def a_copy():
        table = torch.arange(8.0)
        static.copy_(table, non_blocking=True)
        return [table]

    def a_to():
        table = torch.arange(6)
        table.to(device, non_blocking=True)
        return [table]

    def a_part():
        table = torch.arange(16.0)
        static[2:6].copy_(table[8:12])
        return [table]

    def another_dtype():
        table = torch.arange(8, dtype=torch.int32)
        static.copy_(table)
        return [table]

    def on_the_host():
        scratch.copy_(torch.arange(8.0) * 2)
        (scratch + 1).to(torch.float64)
        return []

    def on_the_device():
        static.copy_(torch.ones(8, device=device) + 1)
        static.to(torch.float16)
        return []

    for program in (a_copy, a_to, a_part, another_dtype, on_the_host, on_the_device):
        name, keep = program.__name__.replace("_", " "), keep_class()
        with keep:
            sources = program()
        kept = [tensor.untyped_storage() for tensor in keep.kept]
        assert all(tensor.device.type == "cpu" for tensor in keep.kept), f"{name}: a tensor of the device is kept"
        wanted = {tensor.untyped_storage().data_ptr() for tensor in sources}
        found = {storage.data_ptr() for storage in kept}
        assert wanted <= found, f"{name}: the tensor that was copied is not kept, so its memory can be recycled"
        assert found <= wanted, f"{name}: {len(found - wanted)} tensors are kept that were not copied to the device"
    with keep_class():
        moved = torch.arange(4).to(device, torch.float32)
        total = torch.arange(5).sum()
    assert isinstance(moved, torch.Tensor) and moved.shape == (4,) and moved.dtype == torch.float32, (
        f".to(device) gives {moved!r} inside of the mode")
    assert total.item() == 10, f"a sum on the host gives {total} inside of the mode"
    print("passed")
