"""linear_with_lora against float64, both ways; and both pairs of LoRA kernels on the same batches."""

import random

import pytest
import torch

pytest.importorskip("lorakit.ops", reason="Triton is published for Linux only", exc_type=ImportError)

from batches import DEVICE, Case, hard_cases, random_case, random_weights
from lorakit import LoRABatchInfo, StaticLoRABatchInfo, ops, reference, runtime, slots_to_device
from lorakit.kernels import expand, linear, tokens
from lorakit.routing import route_by_adapter, route_by_request
from test_llama_layer import PROJECTIONS
from test_lora_linear import TOLERANCE

pytestmark = pytest.mark.kernels
ON_GPU = DEVICE.type == "cuda"
DTYPES = runtime.KERNEL_DTYPES


def layer_of(case: Case, width: int, hidden: int, slice_sizes: tuple[int, ...], dtype: torch.dtype):
    """Random x, W and adapters (NaN in every unused rank), and what the layer should give."""
    weights = random_weights(case.ranks, width, hidden, slice_sizes, dtype)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(len(case.slots), hidden, generator=generator).to(dtype).to(DEVICE)
    w = torch.randn(sum(slice_sizes), hidden, generator=generator).to(dtype).to(DEVICE) / hidden**0.5
    base = x.double() @ w.double().t()
    return x, w, weights, reference.lora_linear(x, weights, case.slots, case.ranks, case.scalings, base)


def error(out: torch.Tensor, expected: torch.Tensor) -> float:
    return float((out.cpu().double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("splits", [1, 2, 3])
@pytest.mark.parametrize("name", hard_cases(24, 6))
def test_hard_case(name, splits, dtype, monkeypatch):
    monkeypatch.setattr(linear, "linear_splits", lambda *sizes: splits)
    case = hard_cases(24, 6)[name]
    x, w, weights, expected = layer_of(case, 16, 200, (40, 24, 24), dtype)
    out = torch.full((len(x), 88), float("nan"), dtype=dtype, device=DEVICE)
    assert ops.fused(x, w, weights, route_by_adapter(*case.tensors()), out) is out
    assert error(out, expected) < TOLERANCE[dtype]
    apart = ops.linear_with_lora(x, w, weights, route_by_adapter(*case.tensors()))
    assert error(apart, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("hidden, slice_sizes, width, tokens", [
    (1, (1,), 1, 3), (17, (5, 130, 1), 3, 20), (129, (257,), 16, 33), (64, (32,), 256, 9),
    (48, (40,), 12, 64)])
def test_any_shape(hidden, slice_sizes, width, tokens, dtype, monkeypatch):
    rng = random.Random(hidden)
    case = random_case(rng, tokens, 4, width)
    case.slots = [rng.randint(-1, len(case.ranks) - 1) for _ in range(tokens)]
    x, w, weights, expected = layer_of(case, width, hidden, slice_sizes, dtype)
    for splits in (1, 2):
        monkeypatch.setattr(linear, "linear_splits", lambda *sizes: splits)
        out = torch.full((tokens, sum(slice_sizes)), float("nan"), dtype=dtype, device=DEVICE)
        ops.fused(x, w, weights, route_by_adapter(*case.tensors()), out)
        assert error(out, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [5, 24], ids=["a program a token", "tiles of a segment"])
@pytest.mark.parametrize("width", [16, 256])  # at 256 a step of either kernel has 16 columns
def test_a_program_goes_on_for_several_steps(width, count, dtype, monkeypatch):
    """Three steps of 16 columns, the last program of a slice with fewer, its last step broken."""
    for module in (expand, tokens):
        monkeypatch.setattr(module, "column_steps", lambda *sizes: 3)
    monkeypatch.setattr(expand, "column_block", lambda *sizes: 16)
    rng = random.Random(width + count)
    ranks = [width, 9, 0, width // 2, 3, width]
    case = Case([rng.randint(-1, 5) for _ in range(count)], ranks, [rng.uniform(0.25, 2) for _ in ranks])
    x, w, weights, expected = layer_of(case, width, 48, (70, 24, 24), dtype)
    batch = route_by_adapter(*case.tensors())
    assert error(ops.linear_with_lora(x, w, weights, batch), expected) < TOLERANCE[dtype]
    for splits in (1, 2):
        monkeypatch.setattr(linear, "linear_splits", lambda *sizes: splits)
        out = torch.full((count, 118), float("nan"), dtype=dtype, device=DEVICE)
        assert error(ops.fused(x, w, weights, batch, out), expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("alone", [True, False], ids=["a program a token", "tiles of a segment"])
@pytest.mark.parametrize("name", hard_cases(40, 6))
def test_both_pairs_of_kernels(name, alone, dtype, monkeypatch):
    """By adapter and by request, whatever the rule would choose."""
    monkeypatch.setattr(ops, "one_by_one", lambda *sizes: alone)
    case = hard_cases(40, 6)[name]
    x, _, weights, _ = layer_of(case, 16, 48, (40, 24, 24), dtype)
    base = torch.randn(len(x), 88, generator=torch.Generator().manual_seed(4)).to(dtype).to(DEVICE)
    expected = reference.lora_linear(x, weights, case.slots, case.ranks, case.scalings, base)
    slots, ranks, scalings = case.tensors()
    by_request = route_by_request(slots, torch.ones_like(slots), 1, ranks, scalings)
    for batch in (route_by_adapter(slots, ranks, scalings), by_request):
        out = ops.lora_linear(x, weights, batch, base.clone())
        assert error(out, expected) < TOLERANCE[dtype]
        assert torch.equal(ops.lora_linear(x, weights, batch, base.clone()), out)  # to the bit


def test_a_length_that_is_too_small_leaves_the_rest_without_lora():
    case = Case([1] * 40, [4, 4], [1.0, 1.0])
    x, _, weights, _ = layer_of(case, 16, 48, (40,), torch.float32)
    base = torch.zeros(40, 40, device=DEVICE)
    full = ops.lora_linear(x, weights, route_by_adapter(*case.tensors()), base.clone())
    short = LoRABatchInfo(**{**vars(route_by_adapter(*case.tensors())), "max_len": 21})
    for alone in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ops, "one_by_one", lambda *sizes: alone)
            out = ops.lora_linear(x, weights, short, base.clone())
        assert torch.allclose(out[:21], full[:21], atol=1e-5) and not out[21:].any()
    assert not ops.fuses(x, short)


@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("width", [4, 64])  # by single tokens, and by tiles
def test_the_tail_of_a_longer_step_names_nobody(width, splits, monkeypatch):
    """Static buffers still hold the permutation of ten tokens more, which names the same rows."""
    monkeypatch.setattr(linear, "linear_splits", lambda *sizes: splits)
    case = Case([0, 1, 1, 0, 1, 0], [4, 4], [1.0, 1.0])
    x, w, weights, expected = layer_of(case, width, 48, (40,), torch.float32)
    static = StaticLoRABatchInfo.empty(16, 2, DEVICE)
    slots, ranks, scalings = case.tensors()
    for routed in (slots_to_device([1] * 6 + [0] * 10, 2, DEVICE), slots):
        route_by_adapter(routed, ranks, scalings, out=static)
    assert set(static.permutation[6:].tolist()) >= set(range(4))  # stale, and names tokens of x
    out = torch.full((6, 40), float("nan"), device=DEVICE)
    assert error(ops.fused(x, w, weights, static, out), expected) < 1e-6


@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("width", [4, 64])
def test_the_scaling_of_an_empty_slot_may_be_anything(width, splits, monkeypatch):
    """alpha / rank of a slot without an adapter: alpha / 0."""
    monkeypatch.setattr(linear, "linear_splits", lambda *sizes: splits)
    case = Case([0, 1] * 10, [0, 4], [float("inf"), 1.0])
    x, w, weights, expected = layer_of(Case(case.slots, case.ranks, [0.0, 1.0]), width, 48, (40,), torch.float32)
    batch = route_by_adapter(*case.tensors())
    out = torch.full((20, 40), float("nan"), device=DEVICE)
    assert error(ops.fused(x, w, weights, batch, out), expected) < 1e-6
    assert error(ops.linear_with_lora(x, w, weights, batch), expected) < 1e-6


def test_the_largest_max_len_means_no_limit():
    case = Case([0] * 150 + [1] * 150, [4, 4], [1.0, 1.0])
    x, w, weights, expected = layer_of(case, 16, 48, (40,), torch.float32)
    _, ranks, scalings = case.tensors()
    lens = torch.tensor([150, 150], dtype=torch.int32, device=DEVICE)
    batch = route_by_request(slots_to_device([0, 1], 2, DEVICE), lens, 2**31 - 1, ranks, scalings)
    assert error(ops.linear_with_lora(x, w, weights, batch), expected) < 1e-6


def test_large_buffers_have_no_program_for_each_place(monkeypatch):
    """A permutation of 65,536 places would need as many programs on an axis that has 65,535."""
    def by_tiles(*arguments, **options):
        raise LookupError("by tiles")

    case = Case([0, 1], [4, 4], [1.0, 1.0])
    x, w, weights, _ = layer_of(case, 16, 48, (40,), torch.float32)
    monkeypatch.setattr(ops, "has_pdl", lambda device: True)
    monkeypatch.setattr(ops, "shrink", by_tiles)
    small, large = (StaticLoRABatchInfo.empty(places, 2, DEVICE) for places in (256, 65_536))
    for static in (small, large):
        route_by_adapter(*case.tensors(), out=static)
    assert ops.fuses(x.half(), small) and not ops.fuses(x.half(), large)
    base = torch.zeros(2, 40, device=DEVICE)
    ops.lora_linear(x, weights, small, base)
    with pytest.raises(LookupError, match="by tiles"):
        ops.lora_linear(x, weights, large, base)


def test_a_batch_of_another_step_still_leaves_the_base_product():
    """Three tokens of x were never routed, and the permutation names rows that x does not have."""
    case = Case([0, 1, 1, 0, 1, 0, 1, 1, 0], [4, 4], [1.0, 1.0])
    x, w, weights, expected = layer_of(case, 16, 48, (40,), torch.float32)
    static = StaticLoRABatchInfo.empty(16, 2, DEVICE)
    _, ranks, scalings = case.tensors()
    for tokens in (6, 9):  # fewer than x has, then more than it will have
        static.permutation.fill_(0)
        route_by_adapter(slots_to_device(case.slots[:tokens], 2, DEVICE), ranks, scalings, out=static)
        rows = 9 if tokens == 6 else 5
        out = torch.full((rows, 40), float("nan"), device=DEVICE)
        ops.fused(x[:rows], w, weights, static, out)
        assert error(out[:min(rows, tokens)], expected[:min(rows, tokens)]) < 1e-6
        base = (x[tokens:rows].double() @ w.double().t()).cpu()
        assert torch.allclose(out[tokens:].cpu().double(), base, atol=1e-5)


@pytest.mark.parametrize("name, wrong", [
    ("base_weight", lambda w, out: {"base_weight": w.half()}),
    ("base_weight", lambda w, out: {"base_weight": w[:-1]}),
    ("base_weight", lambda w, out: {"base_weight": w.t().contiguous().t()}),
    ("base_weight", lambda w, out: {"base_weight": None}),
    ("out", lambda w, out: {"out": out.half()}),
    ("out", lambda w, out: {"out": out[:-1]}),
    ("out", lambda w, out: {"out": w.view(-1)[:360].view(9, 40)}),
    ("out", lambda w, out: {"out": torch.zeros(9, 80, device=DEVICE)[:, ::2]})])
def test_bad_input_is_named_and_changes_nothing(name, wrong):
    case = Case([0, 1] * 4 + [0], [4, 4], [1.0, 1.0])
    x, w, weights, _ = layer_of(case, 16, 48, (40,), torch.float32)
    out = torch.full((9, 40), 7.0, device=DEVICE)
    args = {"x": x, "base_weight": w, "weights": weights, "batch": route_by_adapter(*case.tensors()),
            "out": out, **wrong(w, out)}
    with pytest.raises((TypeError, ValueError), match=f"^{name} "):
        ops.linear_with_lora(**args)
    assert (out == 7).all()


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [1, 5, 32, 33])
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_one_graph_serves_every_mix(projection, tokens):
    """At the sizes of Llama-3.1-8B: replays of one graph, each right, and each twice to the bit."""
    hidden, slice_sizes = PROJECTIONS[projection]
    ranks, scalings = [8, 16, 32, 64, 5, 1, 0, 64], [0.25, 0.5, 1.0, 2.0] * 2
    case = Case([0] * tokens, ranks, scalings)
    x, w, weights, _ = layer_of(case, 64, hidden, slice_sizes, torch.bfloat16)
    static = StaticLoRABatchInfo.empty(tokens, 8, DEVICE)
    out = torch.empty(tokens, sum(slice_sizes), dtype=torch.bfloat16, device=DEVICE)
    assert ops.fuses(x, static) == (tokens <= 32 and torch.cuda.get_device_capability() >= (9, 0))

    def step():
        route_by_adapter(static.token_weight_indices, static.lora_ranks, static.scalings, out=static)
        ops.linear_with_lora(x, w, weights, static, out)

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    base, rng = x.double() @ w.double().t(), random.Random(tokens)
    for _ in range(3):
        case.slots = [rng.randint(-1, 7) for _ in range(tokens)]
        static.copy_from(*case.tensors())
        out.fill_(float("nan"))
        graph.replay()
        expected = reference.lora_linear(x, weights, case.slots, ranks, scalings, base)
        assert error(out, expected) < 4e-3
        first = out.clone()
        for _ in range(20):
            graph.replay()
        assert torch.equal(out, first)
