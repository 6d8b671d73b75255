"""shrink and expand against the float64 loops: ranks, shapes, dtypes, mixes, and the corners."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("lorakit.ops", reason="Triton is published for Linux only", exc_type=ImportError)

from batches import DEVICE, Case, hard_cases, random_case, random_weights
from lorakit import LoRABatchInfo, StaticLoRABatchInfo, ops, reference, runtime, slots_to_device
from lorakit.adapters import LoRAWeights
from lorakit.ops import lora_linear
from lorakit.routing import route_by_adapter, route_by_request

pytestmark = pytest.mark.kernels
ON_GPU = DEVICE.type == "cuda"

# Of ‖base‖ + ‖LoRA‖. A 16-bit output is off by up to 2^-11 (fp16) or 2^-8 (bf16) of itself, and tf32
# cuts h by up to 2^-10. An output of a few numbers can meet the worst case; a large one is far off it.
TOLERANCE = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 6e-3}


def error_of(case: Case, width: int, hidden: int, slice_sizes: tuple[int, ...],
             dtype: torch.dtype) -> float:
    """‖lora_linear - reference‖ / (‖base‖ + ‖LoRA‖), NaN in every unused row of every slot."""
    weights = random_weights(case.ranks, width, hidden, slice_sizes, dtype)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(case.slots), hidden, generator=generator).to(dtype).to(DEVICE)
    base = torch.randn(len(case.slots), sum(slice_sizes), generator=generator).to(dtype).to(DEVICE)
    expected = reference.lora_linear(x, weights, case.slots, case.ranks, case.scalings, base)
    scale = base.cpu().double().norm() + (expected - base.cpu().double()).norm()
    out = lora_linear(x, weights, route_by_adapter(*case.tensors()), base)
    assert out is base
    return float((out.cpu().double() - expected).norm() / scale)


@pytest.mark.parametrize("dtype", runtime.KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("name", hard_cases(24, 6))
def test_hard_case(name, dtype):
    assert error_of(hard_cases(24, 6)[name], 16, 48, (40, 24, 24), dtype) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", runtime.KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("hidden, slice_sizes, width, tokens", [
    (1, (1,), 1, 3),
    (17, (5, 130, 1), 3, 20),  # odd, and a slice that needs two tiles between two that do not
    (129, (257,), 16, 33),
    (2049 if ON_GPU else 229, (64, 64), 64, 17),
    (12345 if ON_GPU else 131, (228,), 96, 5),  # a slot wider than one tile of ranks
    (64, (32,), 256, 9),
    (2560 if ON_GPU else 1100, (64,), 128, 33),  # parts of K that are not all as long
    (1280, (64,), 16, 33),  # nor these, of whole steps
    (48, (40,), 16, 300),  # above the length where tiles of tokens grow
])
def test_any_shape(hidden, slice_sizes, width, tokens, dtype):
    rng = random.Random(hidden)
    case = random_case(rng, tokens, 4, width)
    case.slots = [rng.randint(-1, len(case.ranks) - 1) for _ in range(tokens)]
    assert error_of(case, width, hidden, slice_sizes, dtype) < TOLERANCE[dtype]


@given(st.randoms(use_true_random=False), st.integers(1, 70), st.integers(1, 20),
       st.lists(st.integers(1, 60), min_size=1, max_size=3), st.sampled_from(runtime.KERNEL_DTYPES))
@settings(max_examples=40 if ON_GPU else 15, deadline=None)
def test_random_batch(rng, hidden, width, slice_sizes, dtype):
    case = random_case(rng, 40, 6, width)
    assert error_of(case, width, hidden, tuple(slice_sizes), dtype) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", runtime.KERNEL_DTYPES, ids=str)
def test_many_adapters_of_every_rank(dtype):
    """128 slots on a GPU, their ranks from 0 to the width, one token each and some without."""
    loras, width = (128, 64) if ON_GPU else (24, 16)
    slots = [slot if slot % 9 else -1 for slot in range(loras)]
    case = Case(slots[::-1], [slot % (width + 1) for slot in range(loras)], [0.25, 2.0] * (loras // 2))
    assert error_of(case, width, 129, (40, 24), dtype) < TOLERANCE[dtype]


@given(st.data())
@settings(max_examples=40 if ON_GPU else 15, deadline=None)
def test_views_into_larger_tensors(data):
    """Contiguous, but not at an aligned address: Triton must not compile for one that it saw. The
    address decides how wide a load is, and so the order of some sums: the last bits may differ.
    """
    dtype = data.draw(st.sampled_from(runtime.KERNEL_DTYPES))
    case = random_case(data.draw(st.randoms(use_true_random=False)), 20, 3)
    hidden, outputs = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))

    def view(tensor):
        offset = data.draw(st.integers(0, 9))
        room = torch.full((tensor.numel() + offset,), float("nan"), dtype=tensor.dtype, device=DEVICE)
        room[offset:] = tensor.flatten()
        return room[offset:].view(tensor.shape)

    weights = random_weights(case.ranks, 16, hidden, (outputs,), dtype)
    shifted = LoRAWeights(view(weights.lora_a), view(weights.lora_b), (outputs,))
    x = torch.randn(len(case.slots), hidden, device=DEVICE).to(dtype)
    base = torch.randn(len(case.slots), outputs, device=DEVICE).to(dtype)
    batch = route_by_adapter(*case.tensors())
    expected = lora_linear(x, weights, batch, base.clone())
    moved = lora_linear(view(x), shifted, batch, view(base))
    assert (moved - expected).norm() <= TOLERANCE[dtype] * expected.norm()


def prefill() -> tuple[torch.Tensor, LoRAWeights, torch.Tensor, list[int], LoRABatchInfo]:
    """Five requests of unlike lengths, one empty, one without an adapter."""
    lens, slots, ranks, scalings = [7, 0, 33, 1, 18], [1, 0, 2, -1, 1], [4, 16, 9], [1.0, 0.5, 2.0]
    token_slots = [slot for slot, length in zip(slots, lens) for _ in range(length)]
    weights = random_weights(ranks, 16, 40, (24, 8), torch.float32)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(len(token_slots), 40, generator=generator).to(DEVICE)
    base = torch.randn(len(token_slots), 32, generator=generator).to(DEVICE)
    ints = lambda v: torch.tensor(v, dtype=torch.int32, device=DEVICE)  # noqa: E731
    batch = route_by_request(ints(slots), ints(lens), max(lens), ints(ranks),
                             torch.tensor(scalings, device=DEVICE))
    return x, weights, base, token_slots, batch


def test_prefill_by_request_and_by_adapter_agree_with_the_reference():
    x, weights, base, token_slots, by_request = prefill()
    ranks, scalings = by_request.lora_ranks, by_request.scalings
    by_adapter = route_by_adapter(
        torch.tensor(token_slots, dtype=torch.int32, device=DEVICE), ranks, scalings)
    expected = reference.lora_linear(
        x, weights, token_slots, ranks.tolist(), scalings.tolist(), base)
    for batch in (by_request, by_adapter):
        out = lora_linear(x, weights, batch, base.clone()).cpu().double()
        assert (out - expected).norm() / expected.norm() < TOLERANCE[torch.float32]


def test_the_same_input_gives_the_same_bits():
    x, weights, base, _, batch = prefill()
    first = lora_linear(x, weights, batch, base.clone())
    for _ in range(20 if ON_GPU else 3):
        assert torch.equal(lora_linear(x, weights, batch, base.clone()), first)


def test_tokens_without_an_adapter_keep_their_bits():
    x, weights, base, token_slots, batch = prefill()
    x[[slot == -1 for slot in token_slots]] = float("nan")
    out = lora_linear(x, weights, batch, base.clone())
    untouched = torch.tensor(token_slots) == -1
    assert torch.equal(out.cpu()[untouched], base.cpu()[untouched])
    assert out.isfinite().all()


def test_a_rank_above_the_width_is_cut_to_the_width():
    x, weights, base, _, batch = prefill()
    weights.lora_a.nan_to_num_(), weights.lora_b.nan_to_num_()
    batch.lora_ranks.fill_(16)
    expected = lora_linear(x, weights, batch, base.clone())
    batch.lora_ranks.fill_(1000)
    assert torch.equal(lora_linear(x, weights, batch, base.clone()), expected)


def test_a_segment_that_names_no_slot_does_nothing():
    """Slots -1 and 3 of three: beside the tensors lies what would show if a kernel looked there."""
    def inside(values, beside):
        framed = torch.cat([torch.full_like(values[:1], beside), values,
                            torch.full_like(values[:1], beside)])
        return framed[1:-1]

    x, weights, base, _, batch = prefill()
    weights = LoRAWeights(inside(weights.lora_a, 1.0), inside(weights.lora_b, 1.0),
                          weights.slice_sizes)
    batch.lora_ranks, batch.scalings = inside(batch.lora_ranks, 16), inside(batch.scalings, 1.0)
    batch.weight_indices = torch.tensor([-1, 3, -1, 3, -1], dtype=torch.int32, device=DEVICE)
    assert torch.equal(lora_linear(x, weights, batch, base.clone()), base)


@pytest.mark.parametrize("static", [False, True])
def test_a_batch_of_another_step_writes_no_row_but_its_own(static):
    """Only the device knows how many tokens a batch covers: more than x has must do no harm."""
    x, weights, base, token_slots, batch = prefill()
    if static:
        ints = torch.tensor(token_slots, dtype=torch.int32, device=DEVICE)
        batch = route_by_adapter(ints, batch.lora_ranks, batch.scalings,
                                 out=StaticLoRABatchInfo.empty(64, 3, DEVICE))
    out = base.clone()
    lora_linear(x[:9], weights, batch, out[:9])
    assert torch.equal(out[9:], base[9:])
    whole = lora_linear(x, weights, batch, base.clone())[:9]
    torch.testing.assert_close(out[:9], whole, rtol=1e-5, atol=1e-5)  # more tokens take other tiles


def bad_calls():
    x, weights, base, _, batch = prefill()
    every_other = torch.zeros(2 * x.shape[0], dtype=torch.int32, device=DEVICE)[::2]
    changed = lambda **fields: LoRABatchInfo(**{**vars(batch), **fields})  # noqa: E731
    wide = torch.zeros(x.shape[0], 80, device=DEVICE)
    return [
        ("weights", TypeError, (x, None, batch, base)),
        ("batch", TypeError, (x, weights, None, base)),
        ("x", TypeError, (x.double(), weights, batch, base)),
        ("x", TypeError, (x.half(), weights, batch, base)),
        ("x", ValueError, (x[:, :-1].contiguous(), weights, batch, base)),
        ("x", ValueError, (x[0], weights, batch, base)),
        ("x", ValueError, (wide[:, ::2], weights, batch, base)),
        ("x", ValueError, (x.to("meta"), weights, batch, base)),
        ("base_output", TypeError, (x, weights, batch, base.half())),
        ("base_output", ValueError, (x, weights, batch, base[:-1])),
        ("base_output", ValueError, (x, weights, batch, wide[:, :64:2])),
        ("batch.lora_ranks", ValueError, (x, weights, changed(lora_ranks=batch.lora_ranks[:2]), base)),
        ("batch.scalings", TypeError, (x, weights, changed(scalings=batch.lora_ranks), base)),
        ("batch.weight_indices", ValueError, (x, weights, changed(num_segments=9), base)),
        ("batch.seg_indptr", TypeError,
         (x, weights, changed(seg_indptr=batch.seg_indptr.long()), base)),
        ("batch.num_segments", ValueError, (x, weights, changed(num_segments=65_536), base)),
        ("batch.num_segments", TypeError, (x, weights, changed(num_segments=5.0), base)),
        ("batch.max_len", ValueError, (x, weights, changed(max_len=-1), base)),
        ("batch.max_len", TypeError, (x, weights, changed(max_len=1.5), base)),
        ("batch.max_len", ValueError, (x, weights, changed(max_len=2**31), base)),
        ("weights", ValueError, (x, LoRAWeights(weights.lora_a.to("meta"), weights.lora_b.to("meta"),
                                                weights.slice_sizes), batch, base)),
        ("batch.permutation", ValueError,
         (x, weights, changed(permutation=every_other), base)),
        ("batch.permutation", ValueError,  # a batch of another step
         (x, weights, changed(permutation=every_other[:-1].contiguous()), base)),
        ("batch.permutation", ValueError,  # static buffers with too little room
         (x, weights, changed(permutation=every_other[:-1].contiguous(), use_cuda_graph=True), base)),
    ]


@pytest.mark.parametrize("number", range(len(bad_calls())))
def test_bad_input_is_named_and_changes_nothing(number):
    name, error, args = bad_calls()[number]
    before = args[3].clone()
    with pytest.raises(error, match=f"^{name} "):
        lora_linear(*args)
    assert torch.equal(args[3], before)


def test_a_batch_of_more_tiles_than_a_grid_has_is_refused(monkeypatch):
    """2,097,120 tokens are 65,535 tiles of 32, and the second segment may need one more."""
    def launched(*arguments, **options):
        raise LookupError("launched")

    monkeypatch.setattr(ops, "shrink", launched)
    x = torch.zeros(65_535 * 32, 1, device=DEVICE)
    weights = LoRAWeights(x[:1].reshape(1, 1, 1, 1), x[:1].reshape(1, 1, 1), (1,))
    slots, lens, ranks = (torch.tensor(values, dtype=torch.int32, device=DEVICE)
                          for values in ([0, 0], [9, 9], [1]))
    batch = route_by_request(slots, lens, len(x), ranks, torch.ones(1, device=DEVICE))
    with pytest.raises(ValueError, match="^batch .* 2097120 tokens over 2 segments may need 65537"):
        lora_linear(x, weights, batch, x.clone())
    few = x[:-64]
    with pytest.raises(LookupError, match="launched"):
        lora_linear(few, weights, batch, few.clone())


def test_a_capacity_beyond_any_grid_starts_no_program_for_it():
    """A step cut by request launches by the tokens that it has: max_len may be anything above."""
    case = Case([0, 1, 1], [4, 4], [1.0, 1.0])
    x, weights = torch.randn(3, 20, device=DEVICE), random_weights([4, 4], 4, 20, (24,), torch.float32)
    _, ranks, scalings = case.tensors()
    lens = torch.tensor([1, 2], dtype=torch.int32, device=DEVICE)
    slots = slots_to_device([0, 1], 2, DEVICE)
    outs = [lora_linear(x, weights, route_by_request(slots, lens, max_len, ranks, scalings),
                        torch.zeros(3, 24, device=DEVICE)) for max_len in (2, 2**31 - 1)]
    assert torch.equal(*outs) and outs[0].any()


@pytest.mark.skipif(ON_GPU, reason="the interpreter is not in use")
def test_the_interpreter_refuses_bfloat16():
    x, weights, base, _, batch = prefill()
    half = LoRAWeights(weights.lora_a.bfloat16(), weights.lora_b.bfloat16(), weights.slice_sizes)
    with pytest.raises(TypeError, match="x must be float16 or float32, got bfloat16"):
        lora_linear(x.bfloat16(), half, batch, base.bfloat16())
