"""A fault for each rule of capture that a step can break: a few lines, and a twin that keeps the rule.

Four tools run the same lines, and `table` says which of them saw the fault. Chapter *Catch it before
the GPU does* prints it.
"""

import functools
import json
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from lorakit import StaticLoRABatchInfo, runtime
from lorakit.capture import assert_graph_safe, attempt, lint, probe
from lorakit.routing import route_by_adapter_torch

try:
    import triton
    import triton.language as tl
except ModuleNotFoundError as missing:  # Triton is published for Linux only
    if missing.name != "triton":
        raise
    triton = None

NAMED, CAUGHT, SILENT = "named", "caught", "-"  # by its rule's number; without it; not at all
CHAPTERS = Path(__file__).resolve().parent.parent / "chapters"


class Held:
    """What a server holds between its steps. Each tool gets a new one."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.lines, self.old = device, [], []
        self.adapters = [torch.full((8,), 10.0 * slot, device=device) for slot in range(5)]
        self.places = torch.arange(8.0, device=device)
        self.made_once = functools.cache(lambda device: torch.arange(8.0, device=device))
        self.w, self.buffer, self.log = (torch.zeros(8, device=device) for _ in range(3))
        self.rows = torch.zeros(1, device=device)
        self.batch, self.static = (StaticLoRABatchInfo.empty(8, 8, device) for _ in range(2))
        self.generator = torch.Generator(device)
        self.pinned = torch.zeros(8, pin_memory=device.type == "cuda")


# -- batches: the number of a batch, and what is held -> the inputs of a step ---------------------------

def numbers(i: int, held: Held, rows: int = 8) -> torch.Tensor:
    """Whole numbers from 1 to 9: in any order they have the same sum."""
    seeded = torch.Generator().manual_seed(i)
    return torch.randint(1, 10, (8,), generator=seeded)[:rows].float().to(held.device)


def tokens(i: int, held: Held) -> tuple:
    return numbers(i, held), held


def with_number(i: int, held: Held) -> tuple:
    """A number of Python's, 1 to 4, the same number on the device, and in a pinned buffer."""
    x, n = numbers(i, held), 1 + i % 4  # the copy in `numbers` waits for those of `pinned`: S8
    held.pinned.fill_(n)
    return x, n, torch.tensor([n], device=held.device), held


def with_own_number(i: int, held: Held) -> tuple:
    """The number, and the same on the device as a float. The pinned buffer is the server's."""
    return numbers(i, held), 1 + i % 4, torch.tensor([1.0 + i % 4], device=held.device), held


def with_new_tensors(i: int, held: Held) -> tuple:
    """New tensors under the old names. For the twins, `buffer` and `static` are written in place."""
    held.old += [held.w, held.batch.weight_indices]  # else a new one may get their address: S9
    held.w, held.batch.weight_indices = numbers(100 + i, held), numbers(200 + i, held).int() % 8
    held.buffer.copy_(held.w)
    held.static.weight_indices.copy_(held.batch.weight_indices)
    return tokens(i, held)


def with_tail(i: int, held: Held) -> tuple:
    """Writes the first rows of `buffer`. Behind them lies what another batch left."""
    rows = (8, 3, 6, 4, 7)[i]
    held.buffer[:rows].copy_(numbers(300 + i, held, rows))
    held.rows.fill_(rows)
    return tokens(i, held)


@dataclass
class Case:
    """One way to break one rule."""

    name: str
    rule: str  # of the appendix
    what: str  # the fault, in one line
    step: Callable  # the inputs of a batch -> its output
    fixed: Callable  # the same without the fault
    make_inputs: Callable[[int, Held], tuple] = tokens
    serve: Callable | None = None  # (step, inputs) -> a server, if the fault lies there
    fixed_serve: Callable | None = None

    def batches(self, device: torch.device) -> Callable[[int], tuple]:
        """The number of a batch -> its inputs, on that device, with a new `Held`."""
        held = Held(device)
        return lambda i: self.make_inputs(i, held)


# -- steps ----------------------------------------------------------------------------------------------

def doubled(x, held):
    """The twin of every step with something that can be done elsewhere."""
    return x * 2


def after(effect: Callable) -> Callable:
    """A step that has an effect, and then doubles."""
    def step(x, held):
        effect(x, held)
        return x * 2
    return step


def assigned(x, held):
    x[0] = 0
    return x * 2


def zeroed(x, held):
    x[0:1].zero_()
    return x * 2


def routed(x, held):
    out = held.static
    out.token_weight_indices.copy_(x)
    route_by_adapter_torch(out.token_weight_indices, out.lora_ranks, out.scalings, out=out)
    return out.seg_indptr


def routed_with_the_bug(x, held):
    out = held.static
    routed(x, held)
    out.seg_indptr[0] = 0  # SGLang #23738
    return out.seg_indptr


def logged(x, held, fork=True, join=True):
    current, side = torch.cuda.current_stream(), torch.cuda.Stream(priority=-1)  # never a capture's own
    if fork:
        side.wait_stream(current)
    with torch.cuda.stream(side):
        held.log.add_(1)
    if join:
        current.wait_stream(side)
    return x * 2


def server(hand_out: Callable) -> Callable:
    """(step, inputs) -> a server that replays a graph, and hands out hand_out(its output)."""
    def capture(step: Callable, inputs: tuple) -> Callable:
        step(*inputs)
        tried = attempt(lambda: step(*inputs))

        def serve(x, held):
            inputs[0].copy_(x)
            tried.graph.replay()
            return hand_out(tried.result)
        return serve
    return capture


def staged(wait: bool) -> Callable:
    """(step, inputs) -> a server whose numbers go through one pinned buffer, in every step."""
    def capture(step: Callable, inputs: tuple) -> Callable:
        x, _, on_device, held = inputs
        step(*inputs)
        tried, copied = attempt(lambda: step(*inputs)), torch.cuda.Event()

        def serve(new_x, n, *_):
            if wait:
                copied.synchronize()  # the last copy out of the buffer
            held.pinned.fill_(n)
            on_device.copy_(held.pinned[:1], non_blocking=True)
            copied.record()
            x.copy_(new_x)
            tried.graph.replay()
            return tried.result.clone()
        return serve
    return capture


# Each case: name, rule, fault; the step; its twin.
CASES = [
    Case("synchronize", "L1", "waits for the device",
         after(lambda x, held: torch.cuda.synchronize()), doubled),
    Case("stream.synchronize", "L1", "waits for the stream",
         after(lambda x, held: torch.cuda.current_stream().synchronize()), doubled),
    Case("an if", "L2", "Python decides by a value of the device",
         lambda x, held: x * 2 if x.sum() > 40 else x + 1,
         lambda x, held: torch.where(x.sum() > 40, x * 2, x + 1)),
    Case("x[mask]", "L2", "the size of a result is a value of the device",
         lambda x, held: x[x > 4].sum(),
         lambda x, held: x.masked_fill(x <= 4, 0).sum()),
    Case(".item()", "L2", "reads a number",
         lambda x, held: x * x.max().item(),
         lambda x, held: x * x.max()),
    Case("f'{x}'", "L2", "formats a tensor, as a forgotten print does",
         after(lambda x, held: f"{x}"), doubled),
    Case("x[0] = 0", "L3", "copies a zero from pageable memory", assigned, zeroed),
    Case("the seg_indptr bug", "L3", "the same line behind a routing", routed_with_the_bug, routed),
    Case("torch.tensor", "L3", "makes a number on the host, and copies it",
         lambda x, held: x * torch.tensor(2.0, device=x.device),
         lambda x, held: x * torch.full((), 2.0, device=x.device)),
    Case("not pinned", "L3", "copies pageable memory, without a wait",
         lambda x, held: x + torch.arange(8.0).to(x.device, non_blocking=True),
         lambda x, held: x + torch.arange(8.0, device=x.device)),
    Case("default stream", "L5", "the default stream waits for the step's",
         after(lambda x, held: torch.cuda.default_stream().wait_stream(torch.cuda.current_stream())),
         doubled),
    Case("no join", "L6", "nobody waits for the side stream",
         lambda x, held: logged(x, held, join=False), logged),
    Case("no fork", "L7", "waits for a side stream that did not wait before",
         lambda x, held: logged(x, held, fork=False), logged),
    Case("event.query", "L8", "asks whether an event has happened",
         after(lambda x, held: torch.cuda.current_stream().record_event().query()), doubled),
    Case("own generator", "L18", "draws from a generator that no graph knows",
         lambda x, held: x * (torch.rand(8, device=x.device, generator=held.generator) < 1),
         lambda x, held: x * (torch.rand(8, device=x.device) < 1)),
    Case("a new seed", "L18", "seeds the generator",
         after(lambda x, held: torch.cuda.manual_seed(torch.cuda.initial_seed() + 1)), doubled),
    Case("a rebound tensor", "S1", "the server puts a new tensor under an old name",
         lambda x, held: x + held.w,
         lambda x, held: x + held.buffer, with_new_tensors),
    Case("a chosen tensor", "S1", "Python chooses the adapter's tensor",
         lambda x, n, on_device, held: x + held.adapters[n],
         lambda x, n, on_device, held: x + 10 * on_device, with_number),
    Case("a number", "S2", "multiplies by a number of Python's",
         lambda x, n, on_device, held: x * n,
         lambda x, n, on_device, held: x * on_device, with_number),
    Case("a slice", "S3", "Python says how many rows there are",
         lambda x, n, on_device, held: x[:n].sum(),
         lambda x, n, on_device, held: x.masked_fill(held.places >= on_device, 0).sum(), with_number),
    Case("a branch", "S4", "Python decides whether there is an adapter",
         lambda x, n, on_device, held: x * 2 if n > 1 else x + 1,
         lambda x, n, on_device, held: torch.where(on_device > 1, x * 2, x + 1), with_number),
    Case("a log", "S5", "writes a line into a list of Python's",
         after(lambda x, held: held.lines.append("step")), doubled),
    Case("a side stream", "S6", "logs on a stream that was not forked",
         lambda x, held: logged(x, held, fork=False, join=False), logged),
    Case("a pinned temporary", "S7", "copies a pinned buffer that nobody can rewrite",
         lambda x, n, *_: x + torch.tensor([n] * 8, pin_memory=True).to(x.device, non_blocking=True),
         lambda x, n, on_device, held: x + held.pinned.to(x.device, non_blocking=True), with_number),
    Case("a staging buffer", "S8", "the server rewrites a pinned buffer that is still to be read",
         lambda x, n, on_device, held: x * on_device,
         lambda x, n, on_device, held: x * on_device, with_own_number,
         serve=staged(wait=False), fixed_serve=staged(wait=True)),
    Case("a kept output", "S10", "the server hands out the graph's own output", doubled, doubled,
         serve=server(lambda y: y), fixed_serve=server(torch.clone)),
    Case("a cache", "S12", "the first call makes what later calls use",
         lambda x, held: x + held.made_once(x.device),
         lambda x, held: x + held.places),
    Case("a tail", "S13", "reads rows that this batch did not write",
         lambda x, held: x + held.buffer.sum(),
         lambda x, held: x + held.buffer.masked_fill(held.places >= held.rows, 0).sum(), with_tail),
    Case("rebound metadata", "S14", "the server puts a new tensor into the static batch",
         lambda x, held: x + held.places.index_select(0, held.batch.weight_indices),
         lambda x, held: x + held.places.index_select(0, held.static.weight_indices), with_new_tensors),
    Case("only a view", "S16", "launches nothing",
         lambda x, held: x.view(4, 2),
         lambda x, held: x.view(4, 2) * 1),
]

if triton:
    @triton.jit
    def add_one(x, y, segments, BLOCK: tl.constexpr):
        places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        mask = tl.program_id(0) < tl.load(segments)
        tl.store(y + places, tl.load(x + places, mask=mask) + 1, mask=mask)

    @triton.jit
    def times(x, y, n, BLOCK: tl.constexpr):
        places = tl.arange(0, BLOCK)
        tl.store(y + places, tl.load(x + places) * n)

    @triton.jit
    def times_loaded(x, y, n, BLOCK: tl.constexpr):
        places = tl.arange(0, BLOCK)
        tl.store(y + places, tl.load(x + places) * tl.load(n))

    def launched(kernel, x, n, programs=1, BLOCK=8):
        y = torch.zeros_like(x)
        kernel[(programs,)](x, y, n, BLOCK=BLOCK)
        return y

    def trial(launch, quantiles):  # in short what Triton does: it launches, and waits
        launch()
        torch.cuda.synchronize()
        return [1.0, 1.0, 1.0]

    def tuned(x, held):  # of a new process, to which each key is new
        two_ways = [triton.Config({}, num_warps=warps) for warps in (1, 2)]
        return launched(triton.autotune(two_ways, key=["n"], do_bench=trial)(times), x, 3)

    CASES += [
        Case("a new kernel", "L13", "launches a kernel that was never launched",
             lambda x, held: launched(triton.jit(times.fn), x, 3),
             lambda x, held: launched(times, x, 3)),
        Case("autotuning", "L14", "measures a kernel's configurations", tuned,
             lambda x, held: launched(times, x, 3)),
        Case("a grid", "S3", "launches a program for each segment of this batch",
             lambda x, n, on_device, held: launched(add_one, x, on_device, n, BLOCK=2),
             lambda x, n, on_device, held: launched(add_one, x, on_device, 4, BLOCK=2), with_number),
        Case("a specialisation", "S15", "Triton compiles for the number 1",
             lambda x, n, on_device, held: launched(times, x, n),
             lambda x, n, on_device, held: launched(times_loaded, x, on_device), with_number),
    ]
    CASES.sort(key=lambda case: (case.rule[0], int(case.rule[1:])))

UNSEEN = {  # case -> why perhaps no tool sees it
    "a new kernel": "each tool warms up, and the driver of this book captures a first launch",
    "a log": "a list of Python's is neither work of the device nor a value of the step",
}
NOT_A_STEP = {  # rule -> where its fault lies instead
    "L4": "the call that begins a capture",
    "L9": "two captures at once",
    "L10": "the call that ends a capture",
    "L11": "another thread",
    "L12": "another thread",
    "L15": "an old graph, which dies meanwhile",
    "L16": "the first call in a process, which each tool's warm-up makes",
    "L17": "several ranks",
    "L19": "the update of a graph",
    "S9": "whoever drops an input of a graph",
    "S11": "several graphs",
    "S17": "a profile",
}


# -- tools: a case, and whether its twin is meant -> a verdict ------------------------------------------

def on_gpu(case: Case, fixed: bool) -> tuple[Callable, tuple]:
    """The step, and the inputs of its first batch."""
    return case.fixed if fixed else case.step, case.batches(runtime.device())(0)


def sync_debug(case: Case, fixed: bool) -> str:
    """PyTorch's own switch, around the second of two eager calls. It knows no rules."""
    step, inputs = on_gpu(case, fixed)
    step(*inputs)
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        step(*inputs)
    except RuntimeError as error:
        if "synchronizing CUDA operation" not in str(error):
            raise
        return CAUGHT
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return SILENT


def probed(case: Case, fixed: bool) -> str:
    """It catches a wait, a refused capture, and a graph without nodes."""
    step, inputs = on_gpu(case, fixed)
    report = probe(step, *inputs)
    if report.rule == case.rule:
        return NAMED
    return CAUGHT if report.blocks_host or not report.nodes else SILENT


def graph_safe(case: Case, fixed: bool) -> str:
    """Only its AssertionError is a verdict: another error is a fault of the case, and is raised."""
    step, inputs = on_gpu(case, fixed)
    start = case.fixed_serve if fixed else case.serve
    try:
        assert_graph_safe(step, case.batches(runtime.device()), n=4, serve=start and start(step, inputs))
    except AssertionError as wrong:
        return NAMED if str(wrong).startswith(f"{case.rule}:") else CAUGHT
    return SILENT


def linted(case: Case, fixed: bool) -> str:
    """On the CPU. A note counts if it is not said of both forms: S10's is said of every new output."""
    def findings(step: Callable) -> tuple[set[str], set[str]]:
        batches = case.batches(torch.device("cpu"))
        report = lint(step, *batches(0), other=lambda: batches(1))
        alarms = {finding.rule for finding in (*report.breaks, *report.frozen)}
        return alarms, {finding.rule for finding in report.notes}

    step, twin = (case.fixed, case.step) if fixed else (case.step, case.fixed)
    alarms, notes = findings(step)
    if case.rule in alarms | (notes - findings(twin)[1]):
        return NAMED
    return CAUGHT if alarms else SILENT


TOOLS = {"sync debug": sync_debug, "probe": probed, "graph safe": graph_safe, "lint": linted}


def run(case: Case, fixed: bool = False, leave_out: Iterable[str] = ()) -> dict[str, str]:
    """What each tool says of a case, or of its twin. Without a GPU there is only `lint`."""
    gpus = [torch.cuda.current_device()] if runtime.device().type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        return {name: tool(case, fixed) for name, tool in TOOLS.items()
                if (gpus or tool is linted) and name not in leave_out}


def table(cases: Iterable[Case] = CASES) -> list[tuple[Case, dict[str, str]]]:
    """Each case with what the tools say of it."""
    return [(case, run(case)) for case in cases]


def show(case: Case, leave_out: dict[str, str] | None = None) -> None:
    """Print what the tools say of a case and of its twin, a line a tool: the pages of Part III.

    Args:
        leave_out: tool -> why it cannot be applied to this case; then it does not run.
    """
    leave_out = leave_out or {}
    fault, fix = run(case, False, leave_out), run(case, True, leave_out)
    print(f"{case.name} ({case.rule})")
    for name in TOOLS:
        if name in leave_out:
            print(f"  {name:11} not run: {leave_out[name]}")
        elif name in fault:
            print(f"  {name:11} fault: {fault[name]:7} fix: {fix[name]}")


def recorded(pages: Iterable[Path] | None = None) -> list[tuple[str, str, str, dict[str, str]]]:
    """What `show` printed in the recorded pages of Part III: title, case, rule, tool -> verdict of the fault.

    Reads the notebooks, and runs nothing.
    """
    found = []
    for page in sorted(CHAPTERS.glob("3[0-9][0-9]_*.ipynb")) if pages is None else pages:
        cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
        title = "".join(cells[0]["source"]).splitlines()[0].removeprefix("# ")
        for cell in cells:
            for output in cell.get("outputs", []):
                if "cases.show(" not in "".join(cell["source"]) or output["output_type"] != "stream":
                    continue
                for line in "".join(output["text"]).splitlines():
                    if head := re.fullmatch(r"(\S.*) \(([LS]\d+.*)\)", line):
                        found.append((title, *head.groups(), {}))
                    elif told := re.fullmatch(r"  (.{11}) (?:fault: (\S+) .*|not run: .*)", line):
                        found[-1][3][told[1].strip()] = told[2] or "not run"
    return found
