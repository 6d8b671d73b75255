"""Checkers for the exercises of *The loud rules*, and below them what its experiments need."""

import ctypes
import functools
import inspect
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from lorakit import runtime
from lorakit.capture import attempt, driver
from lorakit.capture.recorder import Recorder

NOT_PERMITTED = "AcceleratorError: CUDA error: operation not permitted when stream is capturing"
CONSEQUENCE = "AcceleratorError: CUDA error: operation failed due to a previous error during capture"
MIDDLE = "During handling of the above exception, another exception occurred:"
FIRST_ERRORS = [  # what an error says first, the operation that raised it, the rule
    (NOT_PERMITTED, None, "L1"),
    (NOT_PERMITTED, "aten._local_scalar_dense.default", "L2"),
    (NOT_PERMITTED, "aten.nonzero.default", "L2"),
    (NOT_PERMITTED, "aten.copy_.default", "L3"),
    ("RuntimeError: Cannot copy between CPU and CUDA tensors during CUDA graph capture unless the CPU "
     "tensor is pinned.", "aten.copy_.default", "L3"),
    ("RuntimeError: CUDA graphs must be captured on a non-default stream.", None, "L4"),
    ("AcceleratorError: CUDA error: operation would make the legacy stream depend on a capturing "
     "blocking stream", None, "L5"),
    ("AcceleratorError: CUDA error: capturing stream has unjoined work", None, "L6"),
    ("AcceleratorError: CUDA error: dependency created on uncaptured work in another stream", None,
     "L7"),
    ("AcceleratorError: CUDA error: operation not permitted on an event last recorded in a capturing "
     "stream", None, "L8"),
    ("AcceleratorError: CUDA error: operation would result in a merge of separate capture sequences",
     None, "L9"),
    ("RuntimeError: Capture must end on the same stream it began on.", None, "L10"),
    ("AcceleratorError: CUDA error: attempt to terminate a thread-local capture sequence from another "
     "thread", None, "L10"),
    ("RuntimeError: CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
     "aten.mm.default", "L16"),
    ("RuntimeError: cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
     "aten.convolution.default", "L16"),
    ("RuntimeError: cuFFT error: CUFFT_INTERNAL_ERROR", "aten._fft_r2c.default", "L16"),
    ("RuntimeError: Attempt to increase offset for a CUDA generator not in capture mode.",
     "aten.rand.generator", "L18"),
    (CONSEQUENCE, None, "elsewhere"),
]


def check_pick(pick: Callable[..., object]) -> None:
    """*The loud rules*: the best token of each active row, in a form that a capture takes.

    On every machine: the values, from a call and from replays of a recording. On a GPU a capture
    too.
    """
    device, rng = runtime.device(), torch.Generator().manual_seed(23)
    logits, active = torch.zeros(6, 10, device=device), torch.zeros(6, dtype=torch.bool, device=device)
    tokens = torch.zeros(6, dtype=torch.int64, device=device)
    count = torch.zeros(1, dtype=torch.int64, device=device)

    def compare(mask: list[int], run: Callable[[], object], how: str) -> None:
        new, old = torch.randn(6, 10, generator=rng), torch.arange(100, 106)
        logits.copy_(new)
        active.copy_(torch.tensor(mask).bool())
        tokens.copy_(old)
        count.fill_(77)
        run()
        best = new.argmax(dim=1).tolist()
        wanted = [best[i] if mask[i] else old[i].item() for i in range(6)] if any(mask) else [-1] * 6
        for name, found, right in (("tokens", tokens, wanted), ("count", count, [sum(mask)])):
            assert found.tolist() == right, (
                f"active {mask}{how}: {name} is {found.tolist()}, not {right}")

    def step() -> None:
        pick(logits, active, tokens, count)

    masks = [[1, 1, 0, 1, 0, 0], [1] * 6, [0] * 6, [0, 0, 0, 0, 0, 1], [0, 1, 1, 1, 1, 1]]
    for mask in masks:
        compare(mask, step, "")
    recorded = Recorder()
    try:
        with recorded.capture():
            step()
    except RuntimeError as error:
        raise AssertionError(f"right values, but it breaks L2: {error}") from None
    for mask in masks:
        compare(mask, recorded.replay, ", replayed from a recording")
    if device.type != "cuda":
        print("right values, also replayed; L1 and L3 can be tried on a GPU only")
        return
    tried = attempt(step)
    assert tried.graph, (f"right values, but a capture refuses it, {tried.rule}: {tried.error}, "
                         f"at {tried.line or 'its end'}")
    for mask in masks:
        compare(mask, tried.graph.replay, ", replayed from a graph")
    print("passed")


def check_diagnose(diagnose: Callable[[list[str], str | None], str]) -> None:
    """*The loud rules*: the rule that a chain of errors names."""
    for first, operation, rule in FIRST_ERRORS:
        chains = [[first]]
        if not first.startswith("RuntimeError: Cannot"):  # a refusal by CUDA has a consequence
            chains += [[first, CONSEQUENCE], [first, MIDDLE, CONSEQUENCE]]
        for errors in chains:
            found = diagnose(list(errors), operation)
            assert found == rule, (f"errors {errors}, raised by {operation}: this is {rule}, "
                                   f"and you say {found!r}")
    print("passed")


def check_warm_up(warm_up: Callable[[list[tuple[str, int, bool]]], object]) -> None:
    """*The loud rules*: the fewest launches that a capture must not be the first to make."""
    rng = random.Random(23)
    cases = [[("shrink", 8, False), ("expand", 8, False), ("shrink", 8, False)],
             [("shrink", 1, False), ("shrink", 16, False), ("shrink", 5, False), ("shrink", 7, False)],
             [("tuned", 16, True), ("tuned", 32, True), ("tuned", 16, True)], []]
    for _ in range(40):
        names = [("shrink", False), ("expand", False), ("tuned", True)]
        picked = [rng.choice(names) for _ in range(rng.randint(1, 8))]
        cases.append([(name, rng.choice((1, 2, 5, 15, 16, 17, 32, 48)), tuned) for name, tuned in picked])
    for launches in cases:
        met, wanted = set(), []
        for kernel, n, tuned in launches:
            new = (kernel, n if tuned else (n == 1, n % 16 == 0))
            if new not in met:
                met.add(new)
                wanted.append((kernel, n, tuned))
        found = list(warm_up(list(launches)))
        assert found == wanted, f"launches {launches}: expected {wanted}, got {found}"
    print("passed")


# -- the chapter's experiments --------------------------------------------------------------------

PROCEDURES = ("L4", "L9", "L10", "L11", "L12", "L15", "L16", "L17", "L19")
"""Rules whose two forms capture by themselves and return an error or None; the others' are bodies."""

seen: dict[str, list[str]] = {}
"""What `show` found: rule -> [its failing form, its fixed form]."""

PRELUDE = """import json, os, threading, time
import torch
from book.exercises.loud_rules import said
from lorakit.capture import attempt
x, y = torch.arange(8.0, device="cuda"), torch.zeros(8, device="cuda")
"""


def said(error: Exception | str | None) -> str | None:
    """The first line of an error, without the places in PyTorch's sources; None for None."""
    if isinstance(error, Exception):
        error = f"{type(error).__name__}: {error}"
    return error and re.sub(r" in: \S+:\d+,", ",", error.splitlines()[0])


def write(line: str, indent: int = 3) -> None:
    """Print a line, folded to the width of a cell's output."""
    print(textwrap.fill(line, 84, subsequent_indent=" " * indent))


def show(fails: Callable, fixed: Callable) -> None:
    """Try both forms of a rule. The fixed form runs once before, as a warm-up."""
    rule, named = fails.__name__.removesuffix("_fails"), None
    if rule in PROCEDURES:
        errors = [fails(), fixed()]
    else:
        tried = attempt(fails)
        if tried.error:
            named = f"   attempt names {tried.rule}, at {tried.line or 'the end of the capture'}"
        fixed()
        errors = [tried.error, attempt(fixed).error]
    seen[rule] = [said(error) or "captured" for error in errors]
    write(f"{rule} fails: {seen[rule][0]}")
    if named:
        write(named, 6)
    write(f"{rule} fixed: {seen[rule][1]}")


def try_all(names: dict[str, object], *forms: str) -> None:
    """Each form, a line of Python over `names`, in a capture of its own."""
    for form in forms:
        tried = attempt(functools.partial(exec, compile(form, "form", "exec"), names))
        print(f"{form:50} {'captured' if tried.graph else f'refused, {tried.rule}'}")


@functools.cache
def in_child(fn: Callable, *args: object):
    """What fn(*args) returns, from a Python process of its own, in which it may break things.

    The child has the source of fn and the names of PRELUDE. Each call runs once; later ones get
    the same answer.

    Raises:
        RuntimeError: if the child says nothing; holds the last line of its error output.
    """
    code = [PRELUDE, textwrap.dedent(inspect.getsource(fn)),
            f"print(json.dumps({fn.__name__}(*{args!r})), flush=True)", "os._exit(0)"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:  # a file, so that lines have a source
        file.write("\n".join(code))
        file.flush()
        done = subprocess.run([sys.executable, "-W", "ignore", file.name], env=env,
                              capture_output=True, text=True, timeout=120)
    if not done.stdout:
        raise RuntimeError(f"{fn.__name__} in a child: {(done.stderr.splitlines() or ['silent'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def side_by_side(*calls: tuple) -> None:
    """Run several children at once: side_by_side((fn, argument), (other_fn,))."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda call: in_child(*call), calls))


def perform(calls: list[str], streams: dict[str, torch.cuda.Stream], x: torch.Tensor) -> None:
    """Calls such as 'side waits origin' and 'side runs', where `origin` is the current stream."""
    streams = streams | {"origin": torch.cuda.current_stream(), "default": torch.cuda.default_stream()}
    for stream, verb, *other in map(str.split, calls):
        if verb == "waits":
            streams[stream].wait_stream(streams[other[0]])
        else:
            with torch.cuda.stream(streams[stream]):
                x.add_(1)


def end_in_another_thread() -> str | None:
    """The error of a capture that another thread ends. For `in_child`."""
    graph, stream, errors = torch.cuda.CUDAGraph(), torch.cuda.Stream(), []

    def end() -> None:
        torch.cuda.set_stream(stream)
        try:
            graph.capture_end()
        except RuntimeError as error:
            errors.append(said(error))

    torch.cuda.set_stream(stream)
    graph.capture_begin()
    thread = threading.Thread(target=end)
    thread.start()
    thread.join()
    return errors[0] if errors else None


def read_a_time(external: bool) -> str:
    """What the time between two captured events is after a replay."""
    y = torch.zeros(8, device="cuda")
    start, end = (torch.cuda.Event(enable_timing=True, external=external) for _ in range(2))

    def body() -> None:
        start.record()
        y.add_(1)
        end.record()

    tried = attempt(body)
    if tried.graph is None:
        return said(tried.error)
    try:
        tried.graph.replay()
        torch.cuda.synchronize()
        return "a time" if start.elapsed_time(end) >= 0 else "no time"
    except RuntimeError as error:
        return said(error)


def beside(work: Callable[[], object], error_mode: str) -> tuple[str | None, str | None]:
    """The error of a capture, and that of another thread which does `work` during it."""
    errors, y = [], torch.zeros(8, device="cuda")

    def other() -> None:
        try:
            work()
        except RuntimeError as error:
            errors.append(said(error))

    def body() -> None:
        y.add_(1)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        y.add_(1)

    torch.cuda.empty_cache()  # so that an allocation has to ask CUDA
    return said(attempt(body, error_mode).error), errors[0] if errors else None


class UpdateInfo(ctypes.Structure):
    """CUgraphExecUpdateResultInfo of cuda.h."""

    _fields_ = [("result", ctypes.c_int), ("node", ctypes.c_void_p), ("from_node", ctypes.c_void_p)]


def update(old: torch.cuda.CUDAGraph, new: torch.cuda.CUDAGraph) -> str | None:
    """Make `old`, ready to replay, do what `new` holds. Returns the driver's error, if it refuses."""
    ready, wanted = (ctypes.c_void_p(handle) for handle in
                     (old.raw_cuda_graph_exec(), new.raw_cuda_graph()))
    code = driver.library().cuGraphExecUpdate_v2(ready, wanted, ctypes.byref(UpdateInfo()))
    text = ctypes.c_char_p()
    driver.library().cuGetErrorString(code, ctypes.byref(text))
    return f"CUDA error {code}: {text.value.decode()}" if code else None
