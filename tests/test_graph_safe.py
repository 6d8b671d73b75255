"""assert_graph_safe catches each planted fault, says which rule it breaks, and lets sound steps pass."""

import random

import pytest
import torch

pytest.importorskip("lorakit.ops", reason="Triton is published for Linux only", exc_type=ImportError)

import triton
import triton.language as tl

from batches import DEVICE, random_weights
from lorakit import NO_ADAPTER, StaticLoRABatchInfo, routing, slots_to_device
from lorakit.capture import assert_graph_safe
from lorakit.ops import lora_linear
from test_sync_free import BUGGY

pytestmark = pytest.mark.gpu
HELD: dict = {}  # what a step holds itself, outside of its inputs


def numbers(i: int, size: int = 8) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(i)).to(DEVICE)


def held(name: str, make):
    """Batches of numbers that rebind something which the step holds."""
    def make_inputs(i):
        HELD[name] = make(i)
        return numbers(i)
    return make_inputs


@triton.jit(do_not_specialize=["segments"])
def add_one_kernel(x, out, segments, BLOCK: tl.constexpr):
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + places, tl.load(x + places) + 1, mask=places < segments * BLOCK)


def add_one_to_segments(x, segments):
    out = torch.zeros_like(x)
    add_one_kernel[(segments,)](x, out, segments, BLOCK=4)
    return out


@triton.jit
def times_kernel(x, out, n, BLOCK: tl.constexpr):
    places = tl.arange(0, BLOCK)
    tl.store(out + places, tl.load(x + places) * n)


def times(x, n):
    out = torch.zeros_like(x)
    times_kernel[(1,)](x, out, n, BLOCK=8)
    return out


def shrinking(i: int) -> torch.Tensor:
    return numbers(i, 8 if i == 0 else 3 + i % 5)


def keep_in_buffer(x):
    HELD["buffer"][:len(x)].copy_(x)
    return HELD["buffer"].cumsum(0)[:len(x)] + HELD["buffer"].sum()


def lora_step(route):
    """The layer of Part I: routing and LoRA in one graph."""
    ranks = torch.tensor([8, 16, 0, 4], dtype=torch.int32, device=DEVICE)
    scalings = torch.ones(4, device=DEVICE)
    weights = random_weights([8, 16, 0, 4], 16, 64, (32,), torch.float16)
    static = StaticLoRABatchInfo.empty(16, 4, DEVICE)

    def step(x, slots):
        batch = route(slots, ranks, scalings, out=static)
        return lora_linear(x, weights, batch, torch.zeros(len(x), 32, dtype=x.dtype, device=DEVICE))
    return step


def lora_batch(i: int, tokens: int = 16):
    rng = random.Random(i)
    slots = slots_to_device(rng.choices(range(-1, 4), k=tokens), 4, DEVICE)
    return numbers(i, tokens * 64).view(tokens, 64).half(), slots


def lora_batch_of_any_size(i: int):
    return lora_batch(i, 16 if i == 0 else 1 + 7 * i % 16)


PLANTED = {  # name -> (step, batches, rule, words in the message)
    "frozen scalar, an input": (
        lambda x, n: x * n, lambda i: (numbers(i), 2 + i), "S2", "input 1 was 2 at capture and is 3"),
    "frozen scalar, held": (
        lambda x: x * HELD["n"], held("n", lambda i: 2.0 + i), "S2", "a scalar is frozen"),
    "frozen grid": (
        add_one_to_segments, lambda i: (numbers(i, 16), 1 + i % 4), "S3",
        r"\(1, 1, 1\) programs at capture, \(2, 1, 1\) now"),
    "rebound input, held": (
        lambda x: x + HELD["w"], held("w", lambda i: numbers(100 + i)), "S1", "an address is frozen"),
    "stale tail": (lambda x: x / x.sum(), shrinking, "S13", "another batch's, and they count"),
    "stale tail, held": (keep_in_buffer, shrinking, "S13", "Without any graph"),
    "frozen branch": (
        lambda x, lora: x * 2 if lora else x + 1, lambda i: (numbers(i), i % 2 == 0), "S4",
        "input 1 was True at capture and is False"),
    "frozen loop": (
        lambda x, n: [x := x + 1 for _ in range(n)][-1], lambda i: (numbers(i), 1 + i), "S4",
        "1 nodes at capture, 2 now"),
    "adapter absent at capture": (
        lambda x, lora: x * 2 if lora is None else x * 2 + lora,
        lambda i: (numbers(i), None if i == 0 else numbers(50 + i)), "S4", "1 nodes at capture, 2 now"),
    "frozen shape of whole numbers": (
        lambda x, n: x.long().repeat(n), lambda i: (numbers(i), 1 + i), "S3|S2|S4", "input 1 was 1"),
    "frozen specialisation": (times, lambda i: (numbers(i), 1 + i), "S15", "specialisation"),
    "branch on the device": (
        lambda x: x * 2 if x.sum() > 0 else x, lambda i: numbers(i), "L2", "x.sum\\(\\) > 0"),
    "nothing on this stream": (lambda x: x, lambda i: numbers(i), "S16", "empty"),
    "the seg_indptr line": (lora_step(BUGGY), lora_batch, "L3", "Cannot copy|not permitted"),
}


@pytest.fixture(autouse=True)
def the_process_stays_well():
    HELD["buffer"] = torch.zeros(8, device=DEVICE)
    yield
    assert torch.rand(2, device=DEVICE).shape == (2,)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_caught_with_its_rule(name):
    step, make_inputs, rule, words = PLANTED[name]
    with pytest.raises(AssertionError, match=rf"(?s)^({rule}): .*{words}"):
        assert_graph_safe(step, make_inputs, n=6)


def fill_the_tail(static, batch):
    static[0][:len(batch[0])].copy_(batch[0])
    static[0][len(batch[0]):].zero_()


def fill_slots(static, batch):
    for buffer, value, sentinel in zip(static, batch, (0, NO_ADAPTER)):
        buffer[:len(value)].copy_(value)
        buffer[len(value):].fill_(sentinel)


@torch.inference_mode()
def without_autograd(x):
    return x * 2, x.argmax().expand(8)


SOUND = {  # name -> (step, batches, refresh)
    "arithmetic": (lambda x: x * 2 + 1, numbers, None),
    "inference mode, an expanded output": (without_autograd, numbers, None),
    "views of one output": (lambda x: list((x * 2).unbind(0)), numbers, None),
    "in place on an input": (lambda x, y: y.add_(x), lambda i: (numbers(i), numbers(i + 50)), None),
    "several outputs": (lambda x: {"twice": x * 2, "rows": (x > 0, x.long())}, numbers, None),
    "rows by themselves need no sentinel": (lambda x: x * 2, shrinking, None),
    "tail filled": (lambda x: x / x.sum(), shrinking, fill_the_tail),
    "written in place by make_inputs": (
        lambda x: x + HELD["buffer"],
        lambda i: (HELD["buffer"].copy_(numbers(i + 9)), numbers(i))[1], None),
    "LoRA, the kernel": (lora_step(routing.route_by_adapter), lora_batch, None),
    "LoRA, the torch form": (lora_step(routing.route_by_adapter_torch), lora_batch, None),
    "LoRA of any size": (lora_step(routing.route_by_adapter), lora_batch_of_any_size, fill_slots),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_step_passes(name):
    step, make_inputs, refresh = SOUND[name]
    assert_graph_safe(step, make_inputs, n=12, refresh=refresh, rtol=1e-3, atol=2e-3)


def test_a_refresh_must_keep_the_addresses():
    def rebind(static, batch):
        static[0].data = batch[0].clone()

    with pytest.raises(AssertionError, match="^S1: refresh gave input 0 another address"):
        assert_graph_safe(lambda x: x * 2, numbers, refresh=rebind)


def test_a_refresh_must_not_wait():
    """Where the line stood upstream: outside of the capture, before each replay."""
    def refresh(static, batch):
        static[0].copy_(batch[0])
        static[0][0] = 0

    def step(x):
        x[0:1].zero_()
        return x * 2

    with pytest.raises(AssertionError, match=r"(?s)^L3: refresh holds the host .*static\[0\]\[0\] = 0"):
        assert_graph_safe(step, numbers, refresh=refresh)


class Server:
    """A capture by hand, with a fault of its choice."""

    def __init__(self, fault: str):
        self.fault = fault
        self.x = numbers(0)
        self.graph = torch.cuda.CUDAGraph()
        self.x + 1
        with torch.cuda.graph(self.graph):
            self.y = self.x + 1

    def __call__(self, x):
        if self.fault == "rebinds":
            self.x = x
        else:
            self.x.copy_(x)
        self.graph.replay()
        if self.fault == "waits":
            torch.cuda.synchronize()
        return self.y if self.fault == "hands out its own" else self.y.clone()


@pytest.mark.parametrize("fault, rule", [
    ("rebinds", "batch 1: |S1: batch"), ("hands out its own", "S10: batch 0's output changed"),
    ("waits", "L1 to L3: serve holds the host")])
def test_a_server_is_caught(fault, rule):
    with pytest.raises(AssertionError, match=f"^({rule})"):
        assert_graph_safe(lambda x: x + 1, numbers, serve=Server(fault))


def test_a_sound_server_passes():
    assert_graph_safe(lambda x: x + 1, numbers, serve=Server("none"))


class Drops:
    """Its graph reads a tensor that the server itself does not keep."""

    def __init__(self, pinned: bool, keep: bool):
        self.x, self.w = numbers(0), torch.zeros(2**20, device="cuda")
        source = torch.ones(2**20).pin_memory() if pinned else torch.ones(2**20, device="cuda")
        self.kept = [source] if keep else []

        def step():
            self.w.copy_(source, non_blocking=True)
            return self.x + self.w[:8]

        step()
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.y = step()

    def __call__(self, x):
        self.x.copy_(x)
        self.graph.replay()
        return self.y.clone()


@pytest.mark.parametrize("pinned, rule", [(True, "S7"), (False, "S9")])
@pytest.mark.parametrize("keep", [True, False])
def test_a_graph_that_reads_what_nobody_holds(pinned, rule, keep):
    server = Drops(pinned, keep)
    if keep:
        assert_graph_safe(lambda x: x + 1, numbers, serve=server)
    else:
        with pytest.raises(AssertionError, match=rf"(?s)^{rule}: batch 0: .*what nobody holds"):
            assert_graph_safe(lambda x: x + 1, numbers, serve=server)


class Staged:
    """Each batch goes through one pinned buffer of the host, as a list of Python's would."""

    def __init__(self, waits: bool):
        self.waits, self.copied = waits, torch.cuda.Event()
        self.staging = torch.zeros(8).pin_memory()
        self.server = Server("none")

    def __call__(self, values):
        if self.waits:
            self.copied.synchronize()
        self.staging.copy_(torch.tensor(values))
        self.server.x.copy_(self.staging, non_blocking=True)
        self.copied.record()
        self.server.graph.replay()
        return self.server.y.clone()


@pytest.mark.parametrize("waits", [False, True])
def test_a_server_that_rewrites_what_is_still_to_be_read(waits):
    """While the host waits for each batch, it is right."""
    def values(i):
        return ([float(i + place) for place in range(8)],)

    def step(values):
        return torch.tensor(values, device="cuda") + 1

    if waits:
        assert_graph_safe(step, values, serve=Staged(waits))
    else:
        with pytest.raises(AssertionError, match=r"(?s)^S8: batch 0: .*where the host is ahead"):
            assert_graph_safe(step, values, serve=Staged(waits))


def test_batches_that_write_what_the_server_reads_are_no_alarm():
    """They cannot be made ahead, so nothing is said of a host that runs ahead."""
    read = torch.zeros(8, device="cuda")

    def make_inputs(i):
        read.copy_(numbers(i))
        return numbers(100 + i)

    assert_graph_safe(lambda x: x + read, make_inputs, serve=lambda x: x + read)


@pytest.mark.parametrize("step, make_inputs, error, words", [
    (lambda x: x.sum().item(), numbers, TypeError, "output is a Python float"),
    (lambda x: x.cpu(), numbers, TypeError, "on cpu"),
    (lambda x: x * 2, lambda i: numbers(i, 8 + i), ValueError, "batch 0 must be the largest"),
    (lambda x: x * 2, lambda i: numbers(i).to((torch.float, torch.half)[i % 2]), TypeError,
     "input 0 must be torch.float32"),
    (lambda x: x + torch.rand_like(x), numbers, ValueError, "two results for batch 0"),
    (lambda x: x * 2, lambda i: torch.rand(8, device=DEVICE), ValueError, "two different batches"),
    (lambda x: x * 2, 3, TypeError, "make_inputs must be callable, got int"),
    (lambda *xs: xs[0] * 2, lambda i: (numbers(i),) * (1 + i), ValueError, "has other inputs"),
])
def test_bad_use_is_named(step, make_inputs, error, words):
    with pytest.raises(error, match=words):
        assert_graph_safe(step, make_inputs, n=4)


def test_tolerances_are_the_callers():
    def rough(x):
        return x + 1e-3 * HELD["i"]

    make_inputs = held("i", float)
    with pytest.raises(AssertionError, match="^S2"):
        assert_graph_safe(rough, make_inputs, n=4)
    assert_graph_safe(rough, make_inputs, n=4, rtol=0.0, atol=0.1)
    with pytest.raises(ValueError, match="both, or neither"):
        assert_graph_safe(rough, make_inputs, rtol=0.1)


@pytest.mark.parametrize("n", [1, 0, 2.5, None])
def test_n_must_be_a_number_of_batches(n):
    with pytest.raises(ValueError, match="n must be"):
        assert_graph_safe(lambda x: x * 2, numbers, n=n)
