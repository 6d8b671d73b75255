"""The test that the pull request did not have: the routing inside a graph, over many batches.

SGLang #23738 replaced `seg_indptr[0] = 0` by `seg_indptr[0:1].zero_()` and came with no test.
Here the captured routing is replayed over batches that shrink and grow, and it is shown in two
ways that the host never waits. The old line, put back, must make each of these checks fail.
"""

import inspect
import random

import pytest
import torch

pytest.importorskip("lorakit.ops", reason="Triton is published for Linux only", exc_type=ImportError)

from batches import DEVICE, Case, hard_cases, random_case, random_weights
from lorakit import StaticLoRABatchInfo, reference, routing, slots_to_device, timing
from lorakit.ops import lora_linear

MAX_TOKENS, MAX_LORAS = 64, 8
FIXED_LINE = "out.seg_indptr[0:1].zero_()"


def routing_with(line: str):
    """`route_by_adapter_torch` as it stands in the package, with that one line replaced."""
    source = inspect.getsource(routing.route_by_adapter_torch)
    assert source.count(FIXED_LINE) == 1, "the line that these tests are about has moved"
    namespace = dict(vars(routing))
    exec(source.replace(FIXED_LINE, line), namespace)
    return namespace["route_by_adapter_torch"]


FORMS = {"kernel": routing.route_by_adapter, "torch": routing.route_by_adapter_torch}
BUGGY = routing_with("out.seg_indptr[0] = 0")
DELETED = routing_with("pass")


def captured(route) -> tuple[StaticLoRABatchInfo, torch.cuda.CUDAGraph]:
    """Static buffers, and a graph that routes what lies in them."""
    static = StaticLoRABatchInfo.empty(MAX_TOKENS, MAX_LORAS, DEVICE)

    def step():
        route(static.token_weight_indices, static.lora_ranks, static.scalings, out=static)

    side = torch.cuda.Stream()  # warm up off the default stream, as a capture will run
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return static, graph


def poison(static: StaticLoRABatchInfo) -> None:
    for tensor in vars(static).values():
        if isinstance(tensor, torch.Tensor):
            tensor.fill_(-77)


def batches() -> list[Case]:
    rng = random.Random(23738)
    cases = [random_case(rng, MAX_TOKENS, MAX_LORAS) for _ in range(240)]
    return cases + list(hard_cases(MAX_TOKENS, MAX_LORAS).values())


def check_replays(static, graph, cases: list[Case], poisoned: bool = True) -> None:
    """Each batch: poison every buffer, write the input, replay, compare with two oracles."""
    for case in cases:
        weight_indices, lora_ranks, scalings = case.tensors()
        if poisoned:
            poison(static)
        static.copy_from(weight_indices, lora_ranks, scalings)
        graph.replay()
        tokens, loras = len(case.slots), len(case.ranks)
        found = {"permutation": static.permutation[:tokens], "seg_lens": static.seg_lens[:loras],
                 "seg_indptr": static.seg_indptr[:loras + 1]}
        eager = routing.route_by_adapter_torch(weight_indices, lora_ranks, scalings)
        expected = reference.route_by_adapter(case.slots, loras)
        for name, tensor in found.items():
            assert torch.equal(tensor, getattr(eager, name)), name
            assert tensor.tolist() == expected[name], name
        assert (static.seg_indptr[loras:] == static.seg_indptr[loras]).all(), "stale segments"
        assert static.weight_indices.tolist() == list(range(MAX_LORAS))
        assert torch.equal(static.lora_ranks[:loras], lora_ranks)
        assert torch.equal(static.scalings[:loras], scalings)


@pytest.mark.gpu
@pytest.mark.parametrize("form", FORMS)
def test_replays_equal_eager_and_the_reference(form):
    check_replays(*captured(FORMS[form]), batches())


@pytest.mark.gpu
def test_with_the_old_line_there_is_nothing_to_replay():
    with pytest.raises(RuntimeError, match="capture|capturing"):
        captured(BUGGY)
    assert not torch.cuda.is_current_stream_capturing()
    check_replays(*captured(routing.route_by_adapter), batches()[:5])  # and the process is well


@pytest.mark.gpu
def test_deleting_the_line_is_right_until_somebody_writes_index_0():
    static, graph = captured(DELETED)
    check_replays(static, graph, batches(), poisoned=False)
    with pytest.raises(AssertionError, match="seg_indptr"):
        check_replays(static, graph, batches()[:5])


def steps(route) -> dict:
    """What must not wait for the GPU: name -> a call with its tensors ready."""
    case = hard_cases(MAX_TOKENS, MAX_LORAS)["every slot in turn, full"]
    inputs = case.tensors()
    static = StaticLoRABatchInfo.empty(MAX_TOKENS, MAX_LORAS, DEVICE)
    weights = random_weights(case.ranks, 16, 128, (64, 32), torch.float16)
    x = torch.randn(MAX_TOKENS, 128, device=DEVICE).half()
    base = torch.randn(MAX_TOKENS, 96, device=DEVICE).half()
    lens = torch.ones_like(inputs[0])
    batch = routing.route_by_adapter(*inputs)
    return {
        "route": lambda: route(*inputs),
        "route into static buffers": lambda: route(*inputs, out=static),
        "route_by_request": lambda: routing.route_by_request(
            inputs[0], lens, 1, inputs[1], inputs[2]),
        "copy_from": lambda: static.copy_from(*inputs),
        "slots_to_device": lambda: slots_to_device(case.slots, len(case.ranks), DEVICE),
        "lora_linear": lambda: lora_linear(x, weights, batch, base),
    }


STEPS = ["route", "route into static buffers", "route_by_request", "copy_from", "slots_to_device",
         "lora_linear"]


def check_sync_debug_mode(call) -> None:
    """PyTorch's own witness: it raises at a blocking copy or a stream synchronisation."""
    call()  # compile before
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def check_host_runs_ahead(call) -> None:
    """The second witness: behind 20 ms of queued work the call is back long before the work is."""
    assert timing.host_ms(call, queued_ms=20.0) < 5.0
    timing.queue_work(20.0)
    call()
    after = torch.cuda.Event()
    after.record()
    assert not after.query(), "the GPU had finished before the host came back"
    torch.cuda.synchronize()


@pytest.mark.gpu
@pytest.mark.parametrize("witness", [check_sync_debug_mode, check_host_runs_ahead])
@pytest.mark.parametrize("name", STEPS)
def test_no_step_waits_for_the_gpu(name, witness):
    witness(steps(routing.route_by_adapter)[name])


@pytest.mark.gpu
@pytest.mark.parametrize("witness", [check_sync_debug_mode, check_host_runs_ahead])
@pytest.mark.parametrize("name", STEPS[:2])
def test_the_torch_form_does_not_wait_either(name, witness):
    witness(steps(routing.route_by_adapter_torch)[name])


@pytest.mark.gpu
@pytest.mark.parametrize("witness, error", [
    (check_sync_debug_mode, RuntimeError), (check_host_runs_ahead, AssertionError)])
def test_the_old_line_is_caught_by_both_witnesses(witness, error):
    with pytest.raises(error):
        witness(steps(BUGGY)["route into static buffers"])


def test_on_a_cpu_the_old_line_cannot_be_told_from_the_new():
    """It computes the right values: no test that looks at values alone finds it."""
    for case in batches()[:40]:
        static = [StaticLoRABatchInfo.empty(MAX_TOKENS, MAX_LORAS, "cpu") for _ in range(2)]
        inputs = case.tensors("cpu")
        for route, buffers in zip((BUGGY, routing.route_by_adapter_torch), static):
            poison(buffers)
            route(*inputs, out=buffers)
        for name in ("seg_lens", "seg_indptr", "permutation"):
            assert torch.equal(*(getattr(buffers, name) for buffers in static))


@pytest.mark.gpu
def test_queue_work_keeps_the_gpu_busy_for_about_as_long_as_asked():
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    timing.queue_work(1.0)  # warm up
    start.record()
    timing.queue_work(20.0)
    end.record()
    end.synchronize()
    assert 15.0 < start.elapsed_time(end) < 30.0


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_host_ms_says_so():
    with pytest.raises(RuntimeError, match="this machine has none"):
        timing.host_ms(lambda: None)
