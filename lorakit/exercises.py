"""Checkers for the book's exercises. Each says what went wrong, for which batch, or that it passed.

Every checker is tested against the solution and against wrong answers that readers give.
"""

import itertools
import random
from collections.abc import Callable

import torch

from lorakit import NO_ADAPTER, StaticLoRABatchInfo, reference, runtime, slots_to_device, timing


def batches(max_loras: int = 4) -> list[list[int]]:
    """Slots of a few small batches: the chapter's own, the corners, and random ones."""
    rng = random.Random(7)
    fixed = [[1, 0, NO_ADAPTER, 2, 0, 1], [3], [NO_ADAPTER], [1] * 5, [2, 1, 0]]
    return fixed + [rng.choices(range(-1, max_loras), k=rng.randint(1, 12)) for _ in range(20)]


def check_to_places(to_places: Callable[[list[int]], list[int]]) -> None:
    """*From requests to segments*: from place -> token to token -> place."""
    for slots in batches():
        permutation = reference.route_by_adapter(slots, 4)["permutation"]
        places = list(to_places(list(permutation)))
        expected = [permutation.index(token) for token in range(len(slots))]
        assert places == expected, (
            f"permutation {permutation}: expected places {expected}, got {places}")
    print("passed")


def check_seg_indptr(seg_indptr_of: Callable[[list[int], int], list[int]]) -> None:
    """*From requests to segments*: bounds by counting, without a sort."""
    for slots in batches():
        expected = reference.route_by_adapter(slots, 4)["seg_indptr"]
        found = list(seg_indptr_of(list(slots), 4))
        assert found == expected, f"slots {slots}: expected {expected}, got {found}"
    print("passed")


def check_chunks(chunk: Callable[[list[int], int], list[int]]) -> None:
    """*From requests to segments*: cut long segments so that none is above a limit."""
    for slots, limit in itertools.product(batches(), (1, 2, 3, 16)):
        seg_indptr = reference.route_by_adapter(slots, 4)["seg_indptr"]
        found = list(chunk(list(seg_indptr), limit))
        given = f"seg_indptr {seg_indptr}, limit {limit}"
        assert found[:1] == [0] and found[-1] == seg_indptr[-1], (
            f"{given}: the ends must stay, got {found}")
        assert set(seg_indptr) <= set(found), f"{given}: a bound is lost in {found}"
        assert all(0 < b - a <= limit for a, b in zip(found, found[1:])), (
            f"{given}: every piece must hold 1 to {limit} tokens, got {found}")
        fewest = sum(-(-(b - a) // limit) for a, b in zip(seg_indptr, seg_indptr[1:]))
        assert len(found) - 1 == fewest, f"{given}: {fewest} pieces are enough, got {found}"
    print("passed")


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
