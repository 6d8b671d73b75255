"""lint: what it says of single lines, of whole functions, of two batches; its report and its shell."""

import collections
import gc
import inspect
import json
import subprocess
import sys
import time
import weakref
from dataclasses import dataclass

import pytest
import torch

from lorakit import routing
from lorakit.adapters import LoRAWeights
from lorakit.batch import StaticLoRABatchInfo, slots_to_device
from lorakit.capture import Host, assert_lint_clean, lint
from lorakit.graphs import StaticInputs, padded
from lorakit.lint import main

BREAKS = [  # code, rule: everything that the documentation names
    ("x[0] = 0", "L3"), ("x[0] = host", "L3"), ("m[1, 1] = 2.5", "L3"), ("x[idx] = 0", "L3"),
    ("x[[0, 2]] = x[:2].clone()", "L3"), ("x[hidx]", "L3"), ("x[:3] = hvec", "L3"),
    ("torch.tensor([1.0], device='cuda')", "L3"), ("x.new_tensor([1, 2])", "L3"),
    ("torch.as_tensor([1, 2], device=x.device)", "L3"), ("torch.asarray([1, 2], device='cuda:0')", "L3"),
    ("x.cpu()", "L3"), ("x.to('cpu')", "L3"), ("hvec.to(x.device)", "L3"), ("hvec.to(x)", "L3"),
    ("hvec.cuda(non_blocking=True)", "L3"), ("x[:3].copy_(hvec, non_blocking=True)", "L3"),
    ("x[:3].copy_(pinned)", "L3"), ("m.copy_(pinned.expand(3, 3), non_blocking=True)", "L3"),
    ("x.tolist()", "L3"), ("x.numpy()", "L3"), ("torch.where(mask, host, x)", "L3"),
    ("x.sum().item()", "L2"), ("bool(x.any())", "L2"), ("int(one)", "L2"), ("x[:one]", "L2"), ("x[one]", "L2"),
    ("list(range(one))", "L2"), ("str(x)", "L2"), ("f'{x}'", "L2"), ("f'{one}'", "L2"), ("max(x)", "L2"),
    ("assert (x > -1).all()", "L2"), ("torch.equal(x, x + 1)", "L2"), ("torch.full((2,), one)", "L2"),
    ("x.nonzero()", "L2"), ("x[mask]", "L2"), ("x[mask] = x[mask]", "L2"), ("x.unique()", "L2"),
    ("torch.bincount(idx, minlength=9)", "L2"), ("x.repeat_interleave(idx.new_ones(6))", "L2"),
    ("x.masked_select(mask)", "L2"), ("torch.where(mask)", "L2"), ("torch.histc(x)", "L2"),
    ("torch.linalg.inv(torch.eye(3, device='cuda'))", "L2"), ("x.masked_fill(mask, one)", "L2"),
    ("torch.cuda.synchronize()", "L1"), ("torch.cuda.current_stream().synchronize()", "L1"),
    ("torch.accelerator.synchronize()", "L1"), ("torch.cuda.Stream().query()", "L1"),
    ("e = torch.cuda.Event(); e.record(); e.synchronize()", "L8"),
    ("torch.cuda.default_stream().wait_stream(torch.cuda.current_stream())", "L5"),
    ("torch.cuda.current_stream().wait_stream(torch.cuda.Stream())", "L7"),
    ("s = torch.cuda.Stream(); s.wait_stream(torch.cuda.current_stream())\nwith s: x + 1", "L6"),
    ("torch.cuda.manual_seed(1)", "L18"), ("torch.rand(2, device=x.device, generator=own)", "L18"),
    ("x.exponential_(generator=own)", "L18"), ("torch.Generator('cuda')", "L18"),
]
CAPTURED = [
    "x[0:1] = 0", "x[0:1].zero_()", "x[0].fill_(0)", "x[0] = one.float()", "m[1] = 0", "x[mask] = 0",
    "x[mask] = host", "x[idx]", "x[idx] = x[:2].clone()", "x.index_fill_(0, idx, 0)",
    "torch.full((2,), 3.0, device=x.device)", "torch.arange(4, device='cuda')", "torch.scalar_tensor(1, device='cuda')",
    "torch.zeros_like(x)", "x[:3].copy_(pinned, non_blocking=True)", "x.half()[:3].copy_(pinned, non_blocking=True)", "pinned.copy_(x[:3], non_blocking=True)",
    "x.to('cpu', non_blocking=True)", "pinned.cuda(non_blocking=True)", "x.to(torch.float16)", "x.cuda()", "x[:0].cpu()",
    "torch.where(mask, x, 0.0)", "torch.where(mask, x, one)", "x + host", "x * 2", "len(x)", "x.shape[0]",
    "for v in x: v.add_(1)", "if x.numel() > 3: x.add_(1)", "torch.nonzero_static(mask, size=4)",
    "x.repeat_interleave(idx.new_ones(6), output_size=6)", "torch.bucketize(x, x)", "x.sort()", "x.topk(2)",
    "torch.multinomial(x + 1, 2)", "torch.randn(4, device='cuda')", "torch.histc(x, 4, 0, 5)",
    "torch.nn.functional.one_hot(idx, 9)", "torch.equal(x, x)", "x.masked_fill(mask, 0.5)",
    "torch.nn.functional.pad(x, (1, 1))", "torch.quantile(x, 0.5)", "hvec.sum().item()", "hvec[0] = 1",
    "e = torch.cuda.Event(); e.record(); torch.cuda.current_stream().wait_event(e)",
    "c = torch.cuda.current_stream(); s = torch.cuda.Stream(); s.wait_stream(c)\nwith s: x + 1\nc.wait_stream(s)",
    "with torch.device('cuda'): y = torch.zeros(2)\ny.add_(x[:2])", "torch.cuda.empty_cache()",
]


def names() -> dict[str, object]:
    return {"x": torch.arange(6.0), "m": torch.ones(3, 3), "idx": torch.tensor([0, 2]), "one": torch.tensor(1),
            "mask": torch.tensor([True, False] * 3)}


def of_line(code: str):
    """A function of device tensors that runs the code on its second line; it has host tensors too."""
    source = "\n    ".join(["def step(x, m, idx, one, mask, pinned):", *code.splitlines()])
    held = {"torch": torch, "host": torch.tensor(2.0), "hvec": torch.arange(3.0), "hidx": torch.tensor([0, 2]),
            "own": torch.Generator()}
    exec(source, held)
    return lint(held["step"], *names().values(), Host(torch.arange(3.0), pinned=True))


@pytest.mark.parametrize("code, rule", BREAKS, ids=[code for code, _ in BREAKS])
def test_a_line_that_breaks_a_capture_is_found_once(code, rule):
    report = of_line(code)
    assert {finding.rule for finding in report.breaks} == {rule}, str(report)
    for finding in report.breaks:
        assert finding.severity == "breaks" and finding.op and finding.why and finding.fix
        assert finding.line.function == "step" and finding.line.number >= 2


@pytest.mark.parametrize("code", CAPTURED)
def test_a_line_that_a_capture_takes_is_let_through(code):
    report = of_line(code)
    assert not report.breaks, str(report)


# -- whole functions -------------------------------------------------------------------------------

def four_faults(x, out):
    out[0] = 0
    if x.sum() > 0:
        out[1:2].fill_(5)
    y = x[x > 2]
    scale = torch.tensor([2.0], device=x.device)
    return y * scale, out


def test_it_goes_on_after_a_finding_and_the_result_stays_right():
    x, out = torch.arange(5.0), torch.ones(3)
    report = lint(four_faults, x, out)
    assert [(f.rule, f.line.source) for f in report.breaks] == [
        ("L3", "out[0] = 0"), ("L2", "if x.sum() > 0:"), ("L2", "y = x[x > 2]"),
        ("L3", "scale = torch.tensor([2.0], device=x.device)")]
    y, same = report.result
    assert y.tolist() == [6.0, 8.0] and same is out and out.tolist() == [0.0, 5.0, 1.0]
    assert y.device.type == "cpu", "after the run a tensor is what it was"


def test_a_loop_gives_one_finding_and_a_count():
    def step(x):
        for i in range(3):
            x[i] = i
    report = lint(step, torch.zeros(3))
    assert [(f.line.source, f.times) for f in report.breaks] == [("x[i] = i", 3)]
    assert "3 times" in str(report)


def batch(tokens: int = 6, seed: int = 0) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(seed)
    return (torch.randint(-1, 3, (tokens,), generator=draw, dtype=torch.int32),
            torch.tensor([4, 8, 0], dtype=torch.int32), torch.tensor([1.0, 0.5, 0.0]))


def test_exactly_one_break_on_the_buggy_routing_at_its_line():
    good = "out.seg_indptr[0:1].zero_()"
    source = inspect.getsource(routing.route_by_adapter_torch)
    assert source.count(good) == 1
    lines = source.replace(good, "out.seg_indptr[0] = 0").splitlines()
    held = dict(vars(routing))
    exec("\n".join(lines), held)
    buggy = held["route_by_adapter_torch"]
    out, right = (StaticLoRABatchInfo.empty(8, 4, "cpu") for _ in range(2))
    report = lint(buggy, *batch(), out)
    (finding,) = report.breaks
    where = next(i for i, line in enumerate(lines, 1) if "seg_indptr[0] = 0" in line)
    assert (finding.rule, finding.line.number, finding.op) == ("L3", where, "aten.copy_(device, pageable)")
    routing.route_by_adapter_torch(*batch(), right)
    assert out.seg_indptr.tolist() == right.seg_indptr.tolist()
    assert out.permutation.tolist() == right.permutation.tolist()


def test_no_breaks_on_the_routing_functions():
    out = StaticLoRABatchInfo.empty(8, 4, "cpu")
    for route in (routing.route_by_adapter_torch, routing.route_by_adapter):
        for to in ((), (out,)):
            report = lint(route, *batch(), *to)
            assert not report.breaks, str(report)
    report = lint(routing.route_by_request, torch.tensor([1, 0], dtype=torch.int32),
                  torch.tensor([2, 3], dtype=torch.int32), 3, *batch()[1:])
    assert not report.breaks, str(report)


@pytest.mark.kernels
def test_no_breaks_on_the_other_functions_of_the_package():
    from lorakit import reference
    from lorakit.kernels.expand import expand
    from lorakit.kernels.shrink import shrink
    from lorakit.ops import lora_linear
    weights = LoRAWeights.zeros(3, 8, 16, (16, 8), torch.float32, "cpu")
    rows = [torch.ones(4, 16), torch.ones(4, 16)], [torch.ones(16, 4), torch.ones(8, 4)]
    info = routing.route_by_adapter_torch(*batch())
    x, y = torch.ones(6, 16), torch.zeros(6, 24)
    static = StaticLoRABatchInfo.empty(8, 4, "cpu")
    for fn, args in ((weights.load, (0, *rows)), (static.copy_from, batch()),
                     (slots_to_device, ([0, 1], 3, "cuda")), (shrink, (x, weights.lora_a, info)),
                     (expand, (torch.zeros(1, 6, 2, 8), weights.lora_b, y, info, (16, 8))),
                     (lora_linear, (x, weights, info, y)),
                     (LoRAWeights.zeros, (3, 8, 16, (16, 8), torch.float32, "cuda")),
                     (StaticLoRABatchInfo.empty, (8, 4, "cuda")),
                     (reference.route_by_adapter, ([0, 1], 3))):
        report = lint(fn, *args)
        assert not report.breaks, str(report)

    @dataclass
    class Tokens(StaticInputs):
        slots: torch.Tensor = padded(-1)
    held = Tokens(torch.zeros(8, dtype=torch.int32))
    report = lint(held.copy_from, Tokens(torch.ones(3, dtype=torch.int32)))
    assert not report.breaks and held.slots.tolist() == [1, 1, 1, -1, -1, -1, -1, -1], str(report)


def test_modules_methods_and_closures_lie_on_the_device():
    layer, scale = torch.nn.Linear(4, 4), torch.ones(4)

    class Step:
        def __init__(self):
            self.buffer = torch.zeros(4)

        def run(self, x):
            self.buffer[0] = 0
            return x + self.buffer
    assert not lint(layer, torch.ones(2, 4)).breaks
    assert not lint(lambda x: layer(x), torch.ones(2, 4)).breaks
    assert [f.rule for f in lint(Step().run, torch.ones(4)).breaks] == ["L3"]
    held = lint(lambda x: x * scale, torch.ones(2, 4))  # a bare tensor of a closure
    assert not held.breaks and "taken to lie on the device" in str(held.notes)


def test_what_it_cannot_place_is_said():
    buffer = torch.zeros(4)

    def step(x):
        buffer[0] = 1
    notes = lint(step, torch.ones(4)).notes
    assert [(f.rule, f.line.source) for f in notes] == [("", "buffer[0] = 1"), ("S16", "def step(x):")]
    assert "taken to lie on the host" in notes[0].why
    assert "stands for a device tensor" in lint(lambda: None).notes[0].why


def test_a_tensor_from_outside_that_turns_out_to_lie_on_the_device_breaks_nothing():
    table = torch.arange(4.0)

    def step(y):
        y.copy_(table[:2])  # alone it would be a copy from the host
    report = lint(step, torch.ones(2))
    assert [f.rule for f in report.breaks] == ["L3"] and "taken to lie on the host" in str(report.notes)

    def both(y):
        step(y)
        y.add_(table[2:])
    report = lint(both, torch.ones(2))
    assert not report.breaks and "taken to lie on the device" in str(report.notes)

    def twice(y):
        step(y)
        y[0] = 0  # a real one in between must stay
        step(y)
        y.add_(table[2:])
    assert [f.line.source for f in lint(twice, torch.ones(2)).breaks] == [
        "y[0] = 0  # a real one in between must stay"]


def test_another_librarys_operation_is_noted():
    @torch.library.custom_op("test_lint::total", mutates_args=())
    def total(x: torch.Tensor) -> float:
        return x.sum().item()
    (note, _) = lint(lambda x: total(x), torch.ones(2)).notes  # the other: it launches nothing
    assert note.op == "test_lint.total" and "what it does inside is not seen" in note.why


def test_an_operation_of_higher_order_is_noted():
    def step(x):
        return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))
    report = lint(step, torch.ones(2))
    assert "what it does inside is not seen" in str(report.notes) and report.result.tolist() == [2.0, 2.0]


def test_optimizers_are_checked_by_pytorch_itself():
    layer = torch.nn.Linear(4, 4)

    def step(x, capturable):
        optimizer = torch.optim.Adam(layer.parameters(), capturable=capturable)
        layer(x).sum().backward()
        optimizer.step()
    (finding,) = lint(step, torch.ones(2, 4), False).breaks
    assert "capturable" in finding.why and finding.line.source == "optimizer.step()"
    assert not lint(step, torch.ones(2, 4), True).breaks


# -- two batches -----------------------------------------------------------------------------------

class Holder:
    """Memory that a step finds by itself."""

    def __init__(self):
        self.x = torch.ones(4)


def frozen_of(step, first, second) -> list[tuple[str, str]]:
    report = lint(step, *first, other=second)
    assert report.compared and not report.breaks
    return [(finding.rule, finding.line.source) for finding in report.frozen]


def test_a_number_is_frozen():
    def step(x, n):
        y = x + 1
        return y * n
    assert frozen_of(step, (torch.ones(4), 2), (torch.ones(4), 3)) == [("S2", "return y * n")]
    assert frozen_of(step, (torch.ones(4), 2), (torch.zeros(4), 2)) == []


def test_an_offset_is_frozen():
    def step(x, i):
        x[i].fill_(0)
    assert frozen_of(step, (torch.ones(4), 0), (torch.ones(4), 1)) == [("S2", "x[i].fill_(0)")]


def test_a_shape_is_frozen():
    def step(x):
        return x * 2
    assert frozen_of(step, (torch.ones(4),), (torch.ones(3),)) == [("S3", "return x * 2")]


def test_a_branch_and_a_loop_are_frozen():
    def step(x, lora, n):
        if lora:
            x.add_(5)
        for _ in range(n):
            x.mul_(2)
    found = frozen_of(step, (torch.ones(4), False, 2), (torch.ones(4), True, 3))
    assert found == [("S4", "x.add_(5)"), ("S4", "x.mul_(2)")]


def test_a_tensor_put_under_an_old_name_is_frozen():
    held = Holder()

    def step(y):
        y.add_(held.x)
        held.x = torch.ones(4)  # what the next batch finds lies elsewhere
    assert frozen_of(step, (torch.zeros(4),), (torch.zeros(4),)) == [("S1", "y.add_(held.x)")]


def test_what_a_held_object_is_given_anew_shows_with_a_second_batch_that_is_made_later():
    held = Holder()

    def step(held, y):
        y.add_(held.x)

    def later():
        held.x = torch.full((4,), 2.0)
        return held, torch.zeros(4)
    report = lint(step, held, torch.zeros(4), other=later)
    assert [(f.rule, f.line.source) for f in report.frozen] == [("S1", "y.add_(held.x)")]
    assert not lint(step, held, torch.zeros(4), other=(held, torch.ones(4))).frozen

    class Server(Holder):
        def step(self, y):
            y.copy_(self.x)
            self.x = self.x * 2
    found = lint(Server().step, torch.zeros(4), other=(torch.zeros(4),)).frozen
    assert {(f.rule, f.line.source) for f in found} == {("S1", "y.copy_(self.x)"), ("S1", "self.x = self.x * 2")}
    written = StaticLoRABatchInfo.empty(8, 4, "cpu")  # out= must not count as something new
    assert not lint(routing.route_by_adapter_torch, *batch(), written,
                    other=(*batch(seed=1), written)).frozen


@pytest.mark.kernels
def test_a_grid_and_a_kernels_number_are_frozen():
    import triton
    import triton.language as tl
    global add_n

    @triton.jit
    def add_n(x, n, BLOCK: tl.constexpr):
        at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tl.store(x + at, tl.load(x + at) + n)

    def step(x, n, programs):
        add_n[(programs,)](x, n, BLOCK=2)
    x = torch.zeros(4)
    report = lint(step, x, 2, 1, other=(torch.zeros(4), 3, 2))
    assert not report.breaks
    assert {(f.rule, f.op) for f in report.frozen} == {("S3", "triton add_n"), ("S2", "triton add_n")}
    from lorakit import runtime
    if runtime.INTERPRETED:
        assert x.tolist() == [2.0, 2.0, 0.0, 0.0], "the interpreter ran it"
    else:
        assert any("skipped" in note.why for note in report.notes)


def test_what_stands_beside_a_kernel_is_no_input():
    """A compiled Triton kernel holds the names of its module, where tensors of a GPU may be."""
    class Kernel:
        def __init__(self):
            self.__globals__ = {"weights": torch.zeros(1, device="meta")}

    assert not lint(lambda x, kernel: x * 2, torch.ones(4), Kernel()).breaks


def test_a_pinned_buffer_of_the_call_is_frozen():
    def step(x):
        x.copy_(torch.ones(4).pin_memory(), non_blocking=True)
    assert [f.rule for f in lint(step, torch.zeros(4)).frozen] == ["S7"]
    assert not lint(lambda x, pinned: x.copy_(pinned, non_blocking=True), torch.zeros(4),
                    Host(torch.ones(4), pinned=True)).frozen


def test_work_in_a_stream_that_was_not_forked_is_frozen():
    def step(x):
        with torch.cuda.stream(torch.cuda.Stream()):
            x.add_(1)
    report = lint(step, torch.zeros(4))
    assert not report.breaks and [(f.rule, f.line.source) for f in report.frozen] == [("S6", "x.add_(1)")]


# -- notes and the report --------------------------------------------------------------------------

def test_a_cached_temporary_is_noted():
    cache = {}

    def step(x):
        cache["workspace"] = x * 2
        return x + cache["workspace"]
    notes = lint(step, torch.ones(4)).notes
    assert ("S12", 'cache["workspace"] = x * 2') in [(note.rule, note.line.source) for note in notes]
    assert "S10" in [note.rule for note in notes]
    assert "2 new tensors, 32 bytes" in [note.op for note in notes]
    assert not [note for note in lint(lambda x: x.add_(1), torch.ones(4)).notes]


def test_the_report_reads_and_travels():
    report = lint(four_faults, torch.arange(5.0), torch.ones(3))
    text = str(report)
    assert text.startswith("four_faults: 4 breaks, 0 frozen") and "one batch" in text
    assert "breaks L3 at `out[0] = 0`" in text and "fix:" in text
    found = json.loads(report.to_json())
    assert [f["rule"] for f in found["findings"] if f["severity"] == "breaks"] == ["L3", "L2", "L2", "L3"]
    assert found["findings"][0]["line"]["file"] == __file__


def test_assert_lint_clean():
    assert_lint_clean(lambda x: x * 2, torch.ones(4))
    with pytest.raises(AssertionError, match="breaks L3"):
        assert_lint_clean(lambda x: x.cpu(), torch.ones(4))
    with pytest.raises(AssertionError, match="S2"):
        assert_lint_clean(lambda x, n: x * n, torch.ones(4), 1, other=(torch.ones(4), 2))


def test_bad_arguments():
    with pytest.raises(TypeError, match="fn must be callable"):
        lint(3)
    with pytest.raises(TypeError, match="other must be the tuple"):
        lint(lambda x: x, torch.ones(1), other=[torch.ones(1)])
    with pytest.raises(TypeError, match="args.*meta"):
        lint(lambda x: x, torch.ones(1, device="meta"))


def test_where_tensors_of_a_step_are_found():
    cache = torch.zeros(2, 4)

    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.caches = [(torch.zeros(2, 4), torch.zeros(2, 4))]  # neither parameter nor buffer

        def forward(self, x):
            self.caches[0][0][:1] = x
            return x
    attention = Attention()

    @dataclass(slots=True)
    class Slots:
        x: torch.Tensor

    class Server:
        def __init__(self):
            self.cpu, self.gpu = torch.zeros(4), torch.zeros(4)

        def step(self, cpu):
            self.gpu.copy_(cpu)

    @torch.inference_mode()
    def decorated(x):
        return helper(x)

    def helper(x):
        return attention(x)
    server = Server()
    assert not lint(decorated, torch.ones(1, 4)).breaks
    assert not lint(lambda x: server.gpu.copy_(x), torch.ones(4)).breaks
    assert not lint(lambda s, q: q[0].copy_(s.x), Slots(torch.ones(4)), collections.deque([cache[0]])).breaks
    assert [f.rule for f in lint(server.step, Host(server.cpu)).breaks] == ["L3"]
    with pytest.raises(TypeError, match="Host must be an argument"):
        lint(lambda d: d, {"x": Host(cache)})


def test_it_leaves_results_as_they_are():
    def step(x):
        y = torch.empty(3, device="meta")
        return x.to(memory_format=torch.channels_last), y, torch.compile(torch.relu, fullgraph=True)(x)
    like, meta, same = lint(step, torch.ones(1, 2, 3, 4)).result
    assert like.is_contiguous(memory_format=torch.channels_last) and meta.is_meta and same.shape == like.shape

    def mine(x):
        raise NotImplementedError("no graph capture here")
    with pytest.raises(NotImplementedError):
        lint(mine, torch.ones(1))
    own = torch.Generator()
    assert lint(lambda x: isinstance(own, torch.Generator), torch.ones(1)).result


def test_nothing_of_a_run_is_kept_alive():
    storages = []

    def step(x):
        y = x * 2
        storages.append(weakref.ref(y.untyped_storage()))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        return y.sum()
    gc.collect()
    gc.disable()
    try:
        report = lint(step, torch.ones(4), other=(torch.ones(4),))
        assert [ref() for ref in storages] == [None, None]
    finally:
        gc.enable()
    assert report.result.item() == 8.0


def test_two_batches_of_another_dtype_and_long_loops(monkeypatch):
    assert frozen_of(lambda x: x * 2, (torch.ones(2),), (torch.ones(2).half(),))[0][0] == "S3"

    def loop(x):
        for _ in range(300):
            x.add_(1)
    monkeypatch.setattr("lorakit.capture.checker.frozen.SequenceMatcher", None)  # it is quadratic here
    assert not lint(loop, torch.ones(2), other=(torch.ones(2),)).frozen


def test_an_error_of_the_function_comes_through_with_the_findings():
    def step(x):
        x[0] = 0
        raise KeyError("mine")
    before = torch.cuda.synchronize, torch.cuda.Stream, torch.Generator
    with pytest.raises(KeyError, match="mine") as caught:
        lint(step, torch.ones(4))
    assert "breaks L3" in caught.value.__notes__[0]
    assert before == (torch.cuda.synchronize, torch.cuda.Stream, torch.Generator)


def test_it_works_where_there_is_no_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton.compiler", None)
    assert [f.rule for f in lint(lambda x: x.tolist(), torch.ones(2)).breaks] == ["L3"]


def test_it_adds_a_few_milliseconds():
    args = *batch(), StaticLoRABatchInfo.empty(8, 4, "cpu")
    took = []
    for _ in range(20):
        start = time.perf_counter()
        lint(routing.route_by_adapter_torch, *args)
        took.append(time.perf_counter() - start)
    assert sorted(took)[10] < 0.02, f"{sorted(took)[10] * 1e3:.1f} ms"  # 2 ms on an idle machine


# -- the shell -------------------------------------------------------------------------------------

STEP = """
import torch
def bad(x, n):
    x[0] = 0
    return x * n
def good(x, n):
    return x * n
def batch():
    return torch.arange(4.0), 2
def second():
    return torch.arange(4.0), 3
"""


def test_the_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "steps_of_a_test.py").write_text(STEP)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["steps_of_a_test:bad", "--args", "batch"]) == 1
    assert "breaks L3 at `x[0] = 0`" in capsys.readouterr().out
    assert main(["steps_of_a_test:good", "--args", "steps_of_a_test:batch", "--other", "second"]) == 0
    assert "frozen S2" in capsys.readouterr().out
    assert main(["steps_of_a_test:bad", "--args", "batch", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["rule"] == "L3"
    for wrong in (["steps_of_a_test:nothing"], ["no_such_module:f"], ["steps_of_a_test"],
                  ["steps_of_a_test:good", "--args", "nothing"]):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2, wrong


def test_the_command_as_a_module(tmp_path):
    (tmp_path / "steps_of_a_test.py").write_text(STEP)
    done = subprocess.run([sys.executable, "-m", "lorakit.lint", "steps_of_a_test:bad", "--args", "batch"],
                          cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "breaks L3 at `x[0] = 0` (line 4, bad)" in done.stdout


@pytest.mark.gpu
def test_tensors_on_a_gpu_are_refused():
    with pytest.raises(TypeError, match=r"args\[0\] is on cuda"):
        lint(lambda x: x, torch.ones(1, device="cuda"))
