"""The routing kernel against the loops of `reference` and its twin in PyTorch operations.

On a CPU the interpreter runs it at small sizes; on a GPU it runs at real ones, and in a graph.
"""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("lorakit.ops", reason="Triton is published for Linux only", exc_type=ImportError)

from batches import DEVICE, hard_cases, random_case
from lorakit import StaticLoRABatchInfo, reference, routing
from lorakit.kernels.route import MAX_TOKENS, route

pytestmark = pytest.mark.kernels
ON_GPU = DEVICE.type == "cuda"
SIZES = [(1, 1), (2, 1), (31, 5), (33, 32), (257, 3), (300, 65 if ON_GPU else 9), (1000, 6)]
REAL_SIZES = [(256, 64), (1024, 64), (4097, 128), (8191, 255), (8192, 256), (8192, 1)]


def poisoned(tokens: int, loras: int) -> StaticLoRABatchInfo:
    static = StaticLoRABatchInfo.empty(tokens, loras, DEVICE)
    for tensor in vars(static).values():
        if isinstance(tensor, torch.Tensor):
            tensor.fill_(-77)
    return static


def check(slots: list[int], loras: int, static: StaticLoRABatchInfo) -> None:
    """Route into poisoned buffers, which may be larger, and compare every element."""
    weight_indices = torch.tensor(slots, dtype=torch.int32, device=DEVICE)
    ranks = torch.arange(loras, dtype=torch.int32, device=DEVICE)
    scalings = ranks + 0.5
    route(weight_indices, ranks, scalings, static)
    expected = reference.route_by_adapter(slots, loras)
    tokens, routed = len(slots), expected["seg_indptr"][-1]
    past = static.num_segments - loras
    assert static.permutation.tolist() == (
        expected["permutation"] + [-77] * (static.permutation.numel() - tokens))
    assert static.seg_lens.tolist() == expected["seg_lens"] + [0] * past
    assert static.seg_indptr.tolist() == expected["seg_indptr"] + [routed] * past
    assert static.weight_indices.tolist() == list(range(loras)) + [-77] * past
    assert static.lora_ranks.tolist() == ranks.tolist() + [-77] * past
    assert static.scalings.tolist() == scalings.tolist() + [-77] * past


@pytest.mark.parametrize("name", hard_cases(48, 7))
def test_hard_case(name):
    check(hard_cases(48, 7)[name].slots, 7, poisoned(48, 7))


@pytest.mark.parametrize("tokens, loras", SIZES + (REAL_SIZES if ON_GPU else []))
@pytest.mark.parametrize("mix", ["uniform", "zipf", "one", "none"])
def test_sizes_and_mixes(tokens, loras, mix):
    rng = random.Random(tokens)
    slots = {"uniform": lambda: rng.choices(range(-1, loras), k=tokens),
             "zipf": lambda: rng.choices(range(loras), [1 / (i + 1)**1.5 for i in range(loras)],
                                         k=tokens),
             "one": lambda: [loras - 1] * tokens,
             "none": lambda: [-1] * tokens}[mix]()
    check(slots, loras, poisoned(tokens, loras))


@given(st.data())
@settings(max_examples=100 if ON_GPU else 25, deadline=None)
def test_any_batch_in_any_buffers(data):
    """Values that are no slot, buffers larger than the batch, no token at all."""
    loras = data.draw(st.integers(1, 40 if ON_GPU else 8))
    value = st.integers(-3, loras + 2) | st.sampled_from([-2**31, 2**31 - 1])
    slots = data.draw(st.lists(value, max_size=600 if ON_GPU else 80))
    room = data.draw(st.integers(0, 5))
    check(slots, loras, poisoned(max(1, len(slots) + room), loras + room))


@pytest.mark.parametrize("offset", [1, 2, 3, 4])
def test_a_view_at_any_address(offset, monkeypatch):
    """A variant compiled for aligned vectors must not meet a view that is not aligned."""
    monkeypatch.setattr("lorakit.kernels.route.COMPILED", {})  # no variant of another test
    slots = [-1] * 4 + [1, 0, -1, 2, 0, 1] * 50
    whole = torch.tensor(slots, dtype=torch.int32, device=DEVICE)
    ones = torch.ones(3, device=DEVICE)
    for start in (0, offset):  # the same variant but for the alignment
        static = poisoned(300, 3)
        route(whole[start:start + 300], ones.int(), ones, static)
        expected = reference.route_by_adapter(slots[start:start + 300], 3)
        assert static.permutation.tolist() == expected["permutation"]


@pytest.mark.parametrize("own", ["lora_ranks", "scalings"])
def test_one_of_the_slots_own_buffers_may_be_passed(own):
    static = StaticLoRABatchInfo.empty(8, 3, DEVICE)
    given = {"lora_ranks": torch.tensor([4, 8, 2], dtype=torch.int32, device=DEVICE),
             "scalings": torch.tensor([0.5, 1.0, 2.0], device=DEVICE)}
    getattr(static, own).copy_(given[own])
    args = {name: getattr(static, name) if name == own else tensor for name, tensor in given.items()}
    route(static.token_weight_indices, args["lora_ranks"], args["scalings"], static)
    assert all(torch.equal(getattr(static, name), tensor) for name, tensor in given.items())


def test_the_slots_own_buffers_may_be_passed_and_keep_their_values():
    case = random_case(random.Random(3), 20, 6)
    static = StaticLoRABatchInfo.empty(32, 8, DEVICE)
    static.copy_from(*case.tensors())
    ranks, scalings = static.lora_ranks.clone(), static.scalings.clone()
    route(static.token_weight_indices, static.lora_ranks, static.scalings, static)
    assert torch.equal(static.lora_ranks, ranks) and torch.equal(static.scalings, scalings)
    expected = reference.route_by_adapter(case.slots, len(case.ranks))
    assert static.permutation.tolist()[:len(case.slots)] == expected["permutation"]


@pytest.mark.gpu
@pytest.mark.parametrize("tokens, loras", [(1, 8), (256, 64), (8192, 256)])
def test_one_launch_no_allocation_and_every_replay_is_exact(tokens, loras):
    from lorakit import timeline
    static = StaticLoRABatchInfo.empty(tokens, loras, DEVICE)

    def step():
        routing.route_by_adapter(static.token_weight_indices, static.lora_ranks, static.scalings,
                                 out=static)

    step()  # compile
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    step()
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
    assert [event.name for event in timeline.record(step) if event.lane == "gpu"] == ["route_kernel"]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    rng = random.Random(loras)
    for _ in range(20):
        case = random_case(rng, tokens, loras)
        weight_indices, ranks, scalings = case.tensors()
        static.copy_from(weight_indices, ranks, scalings)
        for name in ("permutation", "seg_lens", "seg_indptr"):
            getattr(static, name).fill_(-77)
        graph.replay()
        expected = reference.route_by_adapter(case.slots, len(case.ranks))
        for name, wanted in expected.items():
            assert getattr(static, name).tolist()[:len(wanted)] == wanted
    twin = routing.route_by_adapter_torch(weight_indices, ranks, scalings)
    assert torch.equal(static.permutation[:len(case.slots)], twin.permutation)


@pytest.mark.gpu
def test_past_the_largest_batch_the_twin_takes_over():
    slots = random.Random(0).choices(range(-1, 5), k=MAX_TOKENS + 1)
    ones = torch.ones(5, device=DEVICE)
    info = routing.route_by_adapter(
        torch.tensor(slots, dtype=torch.int32, device=DEVICE), ones.int(), ones)
    expected = reference.route_by_adapter(slots, 5)
    assert {name: getattr(info, name).tolist() for name in expected} == expected


@pytest.mark.gpu
def test_the_kernel_is_at_least_as_fast_as_promised():
    """Far looser than benchmarks/results/routing.json: a guard against a slip, not a measurement."""
    from lorakit import timing
    for tokens, loras, limit_us in ((256, 64, 10), (8192, 256, 40)):
        static = StaticLoRABatchInfo.empty(tokens, loras, DEVICE)
        static.token_weight_indices.random_(-1, loras)
        args = static.token_weight_indices, static.lora_ranks, static.scalings
        us, _ = timing.graph_us([lambda: routing.route_by_adapter(*args, out=static)] * 20)
        assert us < limit_us
