"""Checkers for the exercises of *The seg_indptr sync bug*."""

from collections.abc import Callable

import torch

from lorakit import StaticLoRABatchInfo, reference, runtime, slots_to_device, timing
from book.exercises.common import batches


def check_reset(reset: Callable[[torch.Tensor], object]) -> None:
    """*The seg_indptr sync bug*: make the first element zero, in place, without a wait."""
    x = torch.full((5,), 7, dtype=torch.int32, device=runtime.device())
    address = x.data_ptr()
    reset(x)
    assert x.tolist() == [0, 7, 7, 7, 7], f"expected [0, 7, 7, 7, 7], got {x.tolist()}"
    assert x.data_ptr() == address, "the tensor has moved: a graph would write to the old address"
    if x.device.type != "cuda":
        print("right values; whether it waits can be seen on a GPU only")
        return
    ms = timing.host_ms(lambda: reset(x), queued_ms=10.0)
    assert ms < 5.0, f"right values, but the host waits: {ms:.1f} ms behind 10 ms of queued work"
    print("passed")


def check_routing(route: Callable[..., object]) -> None:
    """*The seg_indptr sync bug*: a routing into static buffers that no history can spoil.

    Looks at seg_lens, seg_indptr and permutation. On a GPU the routing may not wait either, and
    it is captured once and replayed for every batch.
    """
    device = runtime.device()
    static = StaticLoRABatchInfo.empty(12, 4, device)
    ranks = torch.full((4,), 8, dtype=torch.int32, device=device)
    scalings = torch.ones(4, device=device)
    on_gpu = device.type == "cuda"

    def compare(slots: list[int], how: str) -> None:
        expected = reference.route_by_adapter(slots, 4)
        for name, wanted in expected.items():
            found = getattr(static, name).tolist()[:len(wanted)]
            assert found == wanted, f"slots {slots}{how}: {name} is {found}, not {wanted}"

    for slots in batches():
        poison(static)
        route(slots_to_device(slots, 4, device), ranks, scalings, static)
        compare(slots, "")
    if not on_gpu:
        print("right values; whether it waits can be seen on a GPU only")
        return

    def step() -> None:
        route(static.token_weight_indices, static.lora_ranks, static.scalings, static)

    ms = timing.host_ms(step, queued_ms=10.0)
    assert ms < 5.0, f"right values, but the host waits: {ms:.1f} ms behind 10 ms of queued work"
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for slots in batches():
        poison(static)
        static.copy_from(slots_to_device(slots, 4, device), ranks, scalings)
        graph.replay()
        compare(slots, ", replayed")
    print("passed")


def poison(static: StaticLoRABatchInfo) -> None:
    """What an earlier step may have left behind."""
    for name in ("seg_lens", "seg_indptr", "permutation"):
        getattr(static, name).fill_(-77)
