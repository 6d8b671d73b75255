"""A workspace: memory of the caller's in place of an allocation in the call."""

import random

import pytest
import torch

pytest.importorskip("lorakit.ops", reason="Triton is published for Linux only", exc_type=ImportError)

from batches import DEVICE, random_case
from lorakit import ops
from lorakit.kernels import linear, workspace
from lorakit.kernels.tiles import hidden_splits
from lorakit.routing import route_by_adapter
from test_linear_with_lora import layer_of
from test_lora_linear import prefill

pytestmark = pytest.mark.kernels
ON_GPU = DEVICE.type == "cuda"


def test_shrink_never_needs_more_planes_than_the_bound():
    for count in (0, 1, 2, 255, 256, 257, 1023, 1024, 1025, 5000):
        for hidden, width, tiles in ((1, 1, 1), (4096, 16, 1), (14336, 64, 12), (10**6, 128, 1)):
            planes = max(hidden_splits(hidden, 64, smaller, width, tiles) * smaller
                         for smaller in range(max(0, count - 2000), count + 1))
            assert planes <= workspace.most_planes(count), (count, hidden)


def problem(count: int, segments: int, monkeypatch, splits: int = 2):
    monkeypatch.setattr(linear, "linear_splits", lambda *sizes: splits)
    monkeypatch.setattr(workspace, "linear_splits", lambda *sizes: splits)
    rng = random.Random(count)
    case = random_case(rng, count, segments, 16)
    case.slots = [rng.randint(-1, len(case.ranks) - 1) for _ in range(count)]
    x, w, weights, _ = layer_of(case, 16, 1100, (24, 9), torch.float16)
    return x, w, weights, route_by_adapter(*case.tensors())


def refuse(*arguments, **options):
    raise AssertionError("an allocation")


@pytest.mark.parametrize("count, segments", [(5, 8), (24, 4), (300, 4)], ids=["tokens", "tiles", "prefill"])
@pytest.mark.parametrize("op", ["lora_linear", "linear_with_lora", "fused"])
def test_the_same_bits_and_no_allocation(op, count, segments, monkeypatch):
    x, w, weights, batch = problem(count, segments, monkeypatch, splits=3)
    if op == "fused" and count > ops.MAX_FUSED_TOKENS:
        pytest.skip("not fused")

    def run(space):
        out = torch.ones(count, 33, dtype=x.dtype, device=DEVICE)
        if op == "fused":
            return ops.fused(x, w, weights, batch, out, space)
        if op == "linear_with_lora":
            return ops.linear_with_lora(x, w, weights, batch, out, space)
        return ops.lora_linear(x, weights, batch, out, space)

    size = ops.workspace_size(weights, count)
    space = torch.full((size + 7,), float("nan"), device=DEVICE)
    expected = run(None)
    monkeypatch.setattr(torch, "empty", refuse)
    assert torch.equal(run(space), expected)
    assert not space[:size].isnan().all() and space[size:].isnan().all()


def test_base_product_and_h_lie_apart(monkeypatch):
    """Three planes of 32 tokens by 33 columns, and h behind them, at a multiple of 16 bytes."""
    x, w, weights, batch = problem(31, 4, monkeypatch, splits=3)
    space = torch.zeros(ops.workspace_size(weights, 31), device=DEVICE)
    kept = {}

    def keep(name, function):
        def call(*arguments, **options):
            kept[name] = function(*arguments, **options)
            return kept[name]
        return call

    monkeypatch.setattr(ops, "linear", keep("base", ops.linear))
    monkeypatch.setattr(ops, "shrink", keep("h", ops.shrink))
    ops.fused(x, w, weights, batch, torch.zeros(31, 33, dtype=x.dtype, device=DEVICE), space)
    ends = [(kept[name].data_ptr() - space.data_ptr()) // 4 for name in ("base", "h")]
    assert ends[0] == 0 and ends[1] % 4 == 0 and kept["base"].numel() == 3 * 31 * 33 <= ends[1]
    assert ends[1] + kept["h"].numel() <= space.numel()


@pytest.mark.gpu
def test_nothing_is_allocated_on_the_device():
    x, weights, base, _, batch = prefill()
    w = torch.randn(32, 40, device=DEVICE)
    space = torch.empty(ops.workspace_size(weights, len(x)), device=DEVICE)
    for call in (lambda: ops.lora_linear(x, weights, batch, base, space),
                 lambda: ops.linear_with_lora(x, w, weights, batch, base, space)):
        call()
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        call()
        assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


def test_one_workspace_serves_every_smaller_batch():
    x, weights, base, _, batch = prefill()
    sizes = [ops.workspace_size(weights, count) for count in range(1500)]
    assert sizes == sorted(sizes) and sizes[0] == 0
    space = torch.zeros(sizes[-1], device=DEVICE)
    expected = ops.lora_linear(x, weights, batch, base.clone())
    assert torch.equal(ops.lora_linear(x, weights, batch, base.clone(), space), expected)


def test_bad_workspaces_are_named_and_nothing_is_written():
    x, weights, base, _, batch = prefill()
    w = torch.randn(32, 40, device=DEVICE)
    size = ops.workspace_size(weights, len(x))
    before = base.clone()
    for error, space in ((ValueError, torch.zeros(size - 1, device=DEVICE)), (TypeError, size),
                         (TypeError, torch.zeros(size, dtype=torch.float16, device=DEVICE)),
                         (ValueError, torch.zeros(1, size, device=DEVICE)),
                         (ValueError, torch.zeros(2 * size, device=DEVICE)[::2]),
                         (ValueError, torch.zeros(size, device="meta"))):
        with pytest.raises(error, match="^workspace "):
            ops.lora_linear(x, weights, batch, base, space)
        with pytest.raises(error, match="^workspace "):
            ops.linear_with_lora(x, w, weights, batch, base, space)
    shared = torch.zeros(size + x.numel() + base.numel(), device=DEVICE)
    inside = shared[size - 1:size - 1 + x.numel()].view_as(x), shared[:base.numel()].view_as(base)
    for call in (lambda: ops.lora_linear(inside[0], weights, batch, base, shared[:size]),
                 lambda: ops.lora_linear(x, weights, batch, inside[1], shared[:size])):
        with pytest.raises(ValueError, match="^workspace must not share memory with "):
            call()
    for count, error in ((-1, ValueError), (1.0, TypeError)):
        with pytest.raises(error, match="^max_tokens "):
            ops.workspace_size(weights, count)
    assert torch.equal(base, before)
