"""GraphRunner and its static inputs."""

import random
from dataclasses import dataclass

import pytest
import torch

pytest.importorskip("lorakit.ops", reason="Triton is published for Linux only", exc_type=ImportError)

from batches import DEVICE, random_weights
from lorakit import NO_ADAPTER, reference, routing
from lorakit.capture import assert_graph_safe
from lorakit.graphs import GraphRunner, StaticInputs, padded
from lorakit.ops import lora_linear

RANKS, SCALINGS = [8, 16, 0, 4], [0.5, 1.0, 2.0, 0.25]


@dataclass
class Inputs(StaticInputs):
    x: torch.Tensor = padded(0.0)
    slots: torch.Tensor = padded(NO_ADAPTER)


def batch_of(rows: int, seed: int = 0, device=DEVICE, hidden: int = 64) -> Inputs:
    rng = random.Random(seed)
    x = torch.randn(rows, hidden, generator=torch.Generator().manual_seed(seed)).half()
    slots = torch.tensor(rng.choices(range(-1, 4), k=rows), dtype=torch.int32)
    return Inputs(x.to(device), slots.to(device))


def layer():
    """A LoRA layer as a decode function, and its weights."""
    weights = random_weights(RANKS, 16, 64, (32, 16), torch.float16)
    ranks = torch.tensor(RANKS, dtype=torch.int32, device=DEVICE)
    scalings = torch.tensor(SCALINGS, device=DEVICE)
    base = torch.randn(64, 48, generator=torch.Generator().manual_seed(1)).half().to(DEVICE) / 8

    def decode(inputs: Inputs) -> torch.Tensor:
        batch = routing.route_by_adapter(inputs.slots, ranks, scalings)
        return lora_linear(inputs.x, weights, batch, inputs.x @ base)
    return decode, weights, base


# -- static inputs, on any machine

def test_buffers_hold_the_fill_and_the_shapes_of_the_example():
    buffers = batch_of(3).buffers(8)
    assert len(buffers) == 8 and buffers.x.shape == (8, 64) and buffers.x.dtype == torch.float16
    assert buffers.slots.tolist() == [NO_ADAPTER] * 8 and buffers.x.abs().sum() == 0


def test_a_head_shares_its_memory():
    buffers = batch_of(1).buffers(8)
    assert buffers.head(4).slots.data_ptr() == buffers.slots.data_ptr()
    assert len(buffers.head(4)) == 4


def test_copy_from_leaves_no_stale_tail():
    buffers = batch_of(1).buffers(8)
    buffers.copy_from(batch_of(8, seed=1))
    small = batch_of(3, seed=2)
    buffers.copy_from(small)
    assert torch.equal(buffers.x[:3], small.x) and torch.equal(buffers.slots[:3], small.slots)
    assert buffers.slots[3:].tolist() == [NO_ADAPTER] * 5 and buffers.x[3:].abs().sum() == 0


def test_copy_from_keeps_no_history_and_takes_tensors_of_either_mode():
    buffers = batch_of(1).buffers(8)
    batch = batch_of(3)
    batch.x.requires_grad_()
    buffers.copy_from(batch)
    assert not buffers.x.requires_grad and torch.equal(buffers.x[:3], batch.x)
    with torch.inference_mode():
        made_there = batch_of(1).buffers(8)
    made_there.copy_from(batch)
    assert torch.equal(made_there.x[:3], batch.x)


@pytest.mark.parametrize("batch, error, words", [
    (lambda: batch_of(9), ValueError, "batch has 9 rows, and there is room for 8"),
    (lambda: batch_of(2, hidden=32), ValueError, "^x "),
    (lambda: Inputs(batch_of(2).x.float(), batch_of(2).slots), TypeError, "^x must be float16"),
    (lambda: Inputs(batch_of(2).x, batch_of(2).slots.long()), TypeError, "^slots must be int32"),
    (lambda: Inputs(batch_of(4).x[::2], batch_of(2).slots), ValueError, "^x .*contiguous"),
    (lambda: "a batch", TypeError, "must be Inputs, got str"),
])
def test_what_does_not_fit_is_named_and_nothing_is_written(batch, error, words):
    buffers = batch_of(1).buffers(8)
    buffers.copy_from(batch_of(8, seed=1))
    before = buffers.x.clone(), buffers.slots.clone()
    with pytest.raises(error, match=words):
        buffers.copy_from(batch())
    assert torch.equal(buffers.x, before[0]) and torch.equal(buffers.slots, before[1])


def test_fields_are_checked_when_inputs_are_made():
    with pytest.raises(ValueError, match="slots must have 3 rows, as x has"):
        Inputs(torch.zeros(3, 4), torch.zeros(2))
    with pytest.raises(TypeError, match="x must be a torch.Tensor, got list"):
        Inputs([1], torch.zeros(1))

    @dataclass
    class Unpadded(StaticInputs):
        x: torch.Tensor

    with pytest.raises(TypeError, match="each field of Unpadded must be padded"):
        Unpadded(torch.zeros(1))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_runner_says_so():
    with pytest.raises(RuntimeError, match="GraphRunner captures on a GPU, and this machine has none"):
        GraphRunner(lambda inputs: inputs.x, batch_of(1), [1])


# -- the runner

@pytest.mark.gpu
def test_every_size_and_mix_is_right():
    decode, weights, base = layer()
    runner = GraphRunner(decode, batch_of(1), [1, 2, 4, 8, 16, 32])
    rng = random.Random(3)
    for seed in range(120):
        batch = batch_of(rng.randint(1, 32), seed)
        found = runner(batch).double().cpu()
        expected = reference.lora_linear(batch.x, weights, batch.slots.tolist(), RANKS, SCALINGS,
                                         (batch.x.double() @ base.double()))
        assert found.shape == expected.shape
        assert (found - expected).norm() <= 2e-3 * expected.norm() + 1e-3
    assert runner.replays == 120


@pytest.mark.gpu
def test_it_is_graph_safe_and_its_borrowed_outputs_are_not_to_be_kept():
    decode, _, _ = layer()
    runner = GraphRunner(decode, batch_of(1), [4, 16])

    def make_inputs(i):
        batch = batch_of(16 if i == 0 else 1 + 5 * i % 16, i)
        return batch.x, batch.slots

    def eager(x, slots):
        return decode(Inputs(x, slots))

    assert_graph_safe(eager, make_inputs, rtol=1e-3, atol=4e-3,
                      serve=lambda x, slots: runner(Inputs(x, slots)))
    with pytest.raises(AssertionError, match="^S10"):
        assert_graph_safe(eager, make_inputs, rtol=1e-3, atol=4e-3,
                          serve=lambda x, slots: runner.replay(Inputs(x, slots)).read())


@pytest.mark.gpu
def test_borrowed_outputs_refuse_to_be_read_too_late():
    decode, _, _ = layer()
    runner = GraphRunner(decode, batch_of(1), [4, 8])
    first = runner.replay(batch_of(3, 1))
    kept = first.read().clone()
    own = runner(batch_of(3, 1))
    assert torch.equal(kept, own)
    with pytest.raises(RuntimeError, match="of replay 1, and replay 2 has been since"):
        first.read()
    runner(batch_of(7, 2))
    assert torch.equal(kept, own), "an output of the caller's own has changed"


@pytest.mark.gpu
def test_a_replay_does_not_wait():
    from lorakit.timing import host_ms

    decode, _, _ = layer()
    runner = GraphRunner(decode, batch_of(1), [8])
    batch = batch_of(5)
    assert host_ms(lambda: runner(batch), queued_ms=20.0) < 5.0


@pytest.mark.gpu
def test_an_adapter_loaded_in_place_is_seen():
    decode, weights, _ = layer()
    runner = GraphRunner(decode, batch_of(1), [4])
    batch = batch_of(4, 1)
    batch.slots.fill_(1)
    before = runner(batch)
    weights.load(1, [torch.ones(16, 64)] * 2, [torch.ones(32, 16), torch.ones(16, 16)])
    after = runner(batch)
    assert not torch.equal(before, after)
    assert torch.equal(after, decode(batch))


@pytest.mark.gpu
def test_buckets_share_memory_and_several_outputs_work():
    def two(inputs):
        temporary = torch.ones(2**20, device=DEVICE) * inputs.x.float().sum()
        return inputs.x * 2, inputs.slots + temporary[:1].int() * 0
    many = GraphRunner(two, batch_of(1), [1, 2, 4, 8])
    one = GraphRunner(two, batch_of(1), [8])
    assert many.buckets == [1, 2, 4, 8] and [many.bucket(rows) for rows in (1, 3, 8)] == [1, 4, 8]
    assert 0 < many.pool_bytes() < 2 * one.pool_bytes()
    batch = batch_of(3, 5)
    x, slots = many(batch)
    assert torch.equal(x, batch.x * 2) and torch.equal(slots, batch.slots)


@pytest.mark.gpu
def test_every_bucket_is_warmed_up_before_the_first_capture():
    calls = []

    def decode(inputs):
        calls.append((len(inputs), torch.cuda.is_current_stream_capturing()))
        return inputs.x * 2
    GraphRunner(decode, batch_of(1), [16, 1, 5])
    assert [rows for rows, capturing in calls if not capturing] == [1, 5, 16] * 2
    assert [rows for rows, capturing in calls if capturing] == [16, 5, 1]
    assert not any(capturing for _, capturing in calls[:6])


@pytest.mark.gpu
@pytest.mark.parametrize("decode, error, words", [
    (lambda inputs: inputs.x.sum().item(), TypeError, "fn must return tensors on the GPU"),
    (lambda inputs: inputs.x.cpu(), TypeError, "got cpu"),
    (lambda inputs: inputs.x.sum(), ValueError, "must return 4 rows for 4"),
    (lambda inputs: inputs.x[1:], ValueError, "must return 4 rows for 4"),
])
def test_what_a_decode_function_may_not_return(decode, error, words):
    with pytest.raises(error, match=words):
        GraphRunner(decode, batch_of(1), [4])


@pytest.mark.gpu
def test_a_function_that_cannot_be_captured_is_named_with_rule_and_line():
    def decode(inputs):
        inputs.x[0, 0] = 1.0
        return inputs.x * 2
    with pytest.raises(RuntimeError, match=r"\(L3\).*inputs\.x\[0, 0\] = 1\.0"):
        GraphRunner(decode, batch_of(1), [4])
    assert torch.rand(1, device=DEVICE).shape == (1,)


@pytest.mark.gpu
@pytest.mark.parametrize("arguments, error, words", [
    ((3, batch_of(1, device="cpu"), [1]), TypeError, "fn must be callable"),
    ((lambda i: i.x, "batch", [1]), TypeError, "example must be a StaticInputs"),
    ((lambda i: i.x, batch_of(1, device="cpu"), []), ValueError, "buckets"),
    ((lambda i: i.x, batch_of(1, device="cpu"), [0]), ValueError, "buckets"),
    ((lambda i: i.x, batch_of(1, device="cpu"), [2.5]), TypeError, "buckets"),
    ((lambda i: i.x, batch_of(1, device="cpu"), 8), ValueError, "buckets must be a sequence"),
    ((lambda i: i.x, batch_of(1, device="cpu"), [8]), ValueError, "example.x must be on cuda:0"),
])
def test_bad_arguments_are_named(arguments, error, words):
    with pytest.raises(error, match=words):
        GraphRunner(*arguments)


@pytest.mark.gpu
def test_a_batch_that_no_bucket_holds_changes_nothing():
    decode, _, _ = layer()
    runner = GraphRunner(decode, batch_of(1), [2, 4])
    kept = runner.replay(batch_of(4, 1))
    before = kept.read().clone()
    for batch, words in ((batch_of(5), "batch has 5 rows; the buckets take 1 to 4"),
                         (batch_of(4).head(0), "batch has 0 rows")):
        with pytest.raises(ValueError, match=words):
            runner(batch)
    with pytest.raises(TypeError, match="x must be float16"):
        runner(Inputs(batch_of(2).x.float(), batch_of(2).slots))
    assert torch.equal(kept.read(), before)


@pytest.mark.gpu
def test_a_replay_inside_of_a_capture_is_refused():
    from lorakit.capture import attempt

    decode, _, _ = layer()
    runner = GraphRunner(decode, batch_of(1), [2])
    batch = batch_of(2)
    assert "is capturing already" in attempt(lambda: (batch.x + 1, runner(batch))).error
