"""lint: run a function once on the CPU, and say what a CUDA graph would do with it."""

import traceback
from collections.abc import Callable

import torch
from torch import Tensor

from lorakit.capture.checker.cuda import Cuda
from lorakit.capture.checker.findings import BREAKS, NOTE, LintReport, plural
from lorakit.capture.checker.frozen import compare
from lorakit.capture.checker.kernels import watched
from lorakit.capture.checker.operations import Operations
from lorakit.capture.checker.places import PAGEABLE, PINNED, Host, storage_of, tensors_in
from lorakit.capture.checker.questions import Questions
from lorakit.capture.checker.run import Run
from lorakit.capture.checker.waits import Cause
from lorakit.capture.lines import last_place

NOTHING = Cause("", "no tensor stands for a device tensor, so little can be seen",
                "pass the step's tensors as arguments")
EMPTY = Cause("S16", "launches nothing on a device: a graph of it would be empty",
              "look where its tensors lie")
MEMORY = Cause("", "in a capture their memory is the graph's own, and holds nothing before a replay",
               "keep none of them outside; what must last is made before the capture")
KEPT = Cause("S12", "made in the call, not returned, and still alive: a cache? Its memory is the graph's",
             "make it before the capture")
OVERWRITTEN = Cause("S10", "made in the call: the next replay writes the same memory again",
                    "clone what you keep")


Batch = tuple | Callable[[], tuple]


def lint(fn: Callable[..., object], *args: object, other: Batch | None = None) -> LintReport:
    """Find what a CUDA graph of a function would refuse, and what it would freeze, without a GPU.

    Calls fn(*args) on the CPU, once, and looks at each operation. It goes on after a finding, so one
    call lists them all. The arguments are written as fn writes them. Nothing is captured.

    Args:
        fn: a step. A module's tensors, a bound method's object and modules in a closure lie on
            the device. Other tensors that fn does not get as arguments lie on the host.
        args: on the CPU. Every tensor in them, in containers, dataclasses, objects and modules, stands
            for a device tensor; `Host(tensor)` for one that stays on the host. Python values are
            what they are.
        other: the arguments of a second batch, or a function that makes them after the first has run.
            Then fn runs once more, and each launch that differs is FROZEN: a number, a shape, a
            grid, a branch, an address. A tensor stands for the static one in its place; but in an
            object that both batches are given it is the object's own.

    Returns:
        The findings, and what fn returned for the first batch. Does not synchronise.

    Call fn once before, if its first call sets things up. Triton kernels run in the interpreter, or are
    skipped with a note; compiled functions run eagerly. While fn runs, `torch.cuda` is a stand-in in
    every thread: do not lint while others use a GPU. It keeps every temporary until the call ends. It
    adds some 0.3 ms and 30 to 80 microseconds an operation, and seconds to the first call in a process.
    It cannot see what C++ and CUDA libraries do by themselves, other threads, and names that were
    taken out of torch.cuda before (`from torch.cuda import synchronize`), and takes CUDA's autocast
    for no autocast. Chapter *Catch it before the GPU does* has more.

    Raises:
        TypeError: if fn cannot be called, `other` gives no tuple, or a tensor is not on the CPU.
        Whatever fn raises, with the findings so far as a note.
    """
    if not callable(fn):
        raise TypeError(f"fn must be callable, got {type(fn).__name__}")
    if other is not None and not isinstance(other, tuple) and not callable(other):
        raise TypeError(f"other must be the tuple of a second batch's arguments, or a function that gives "
                        f"it, got {type(other).__name__}")
    run = watch(fn, args, "args", other is not None)
    closing_notes(run)
    if other is not None:
        again = other() if callable(other) else other
        if not isinstance(again, tuple):
            raise TypeError(f"other must give a tuple of arguments, got {type(again).__name__}")
        compare(run, watch(fn, again, "other", True, run))
    name = getattr(fn, "__name__", type(fn).__name__)
    return LintReport(name, tuple(run.found.values()), run.result, other is not None)


def assert_lint_clean(fn: Callable[..., object], *args: object, other: Batch | None = None) -> None:
    """A test in one line: fails if `lint` finds a break, or with a second batch something frozen.

    Raises:
        AssertionError: its text is the report.
        What `lint` raises.
    """
    report = lint(fn, *args, other=other)
    if report.breaks or report.frozen:
        raise AssertionError(str(report))


def watch(fn: Callable, args: tuple, called: str, compares: bool, first: Run | None = None) -> Run:
    """Call fn, and look at it. `called` names the arguments; `compares` keeps the launches, to be
    compared with those of the batch before, `first`."""
    run = Run(compares)
    code = getattr(fn, "__code__", None)
    run.args, run.start = args, code and (code, code.co_firstlineno)
    for i, arg in (*enumerate(args), ("fn", fn)):
        before = fn if i == "fn" else first.args[i] if first and i < len(first.args) else None
        held = first and arg is before and not isinstance(arg, Tensor)
        given = tensors_in(arg, f"[{i}]") if not isinstance(arg, Host) else ()
        for name, tensor in given:
            if tensor.device.type != "cpu":
                raise TypeError(f"{called}{name} is on {tensor.device}; lint runs on the CPU: pass .cpu()")
            anew = held and first.names.get(id(storage_of(tensor))) != name
            run.input(f"{name}, put there anew" if anew else name, tensor)
    for i, arg in enumerate(args):
        if isinstance(arg, Host):
            run.input(f"[{i}]", arg.tensor, PINNED if arg.pinned else PAGEABLE)
    if not run.places.any_device():
        run.report(NOTE, NOTHING, "lint", run.start)
    cuda = Cuda(run)
    try:
        with (cuda.patched(), watched(run), torch.compiler.set_stance("force_eager"), Questions(run),
              Operations(run)):
            run.result = fn(*(arg.tensor if isinstance(arg, Host) else arg for arg in args))
            cuda.end()
    except Exception as error:
        if not (is_pytorchs(error) and "graph capture" in str(error)):  # else its own check refuses
            error.add_note(str(LintReport("so far", tuple(run.found.values()), None, False)))
            raise
        run.report(BREAKS, Cause("", str(error).splitlines()[0]), "PyTorch's own check",
                   last_place(error.__traceback__))
    return run


def is_pytorchs(error: Exception) -> bool:
    """True if code of PyTorch's raised the error."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").startswith("torch.")


def closing_notes(run: Run) -> None:
    """What the call launched and allocated, and who holds it after the call."""
    if run.places.any_device() and not run.launched:
        run.report(NOTE, EMPTY, "lint", run.start)
    if not run.made:
        return
    returned = {id(storage_of(tensor)) for _, tensor in tensors_in(run.result, "result")}
    count, size = len(run.made), sum(size for _, size, _ in run.made)
    run.report(NOTE, MEMORY, f"{plural(count, 'new tensor')}, {size} bytes", run.made[0][2])
    alive = [(made(), line) for made, _, line in run.made]
    alive = [(tensor, line) for tensor, line in alive if tensor is not None and tensor.grad_fn is None]
    results = [line for tensor, line in alive if id(storage_of(tensor)) in returned]
    if results:
        run.report(NOTE, OVERWRITTEN, f"the result, {plural(len(results), 'new tensor')}", results[0])
    trains = any(tensor.requires_grad for _, tensor in tensors_in(run.result, "result"))
    for tensor, line in alive if not trains else ():  # else autograd holds them
        if id(storage_of(tensor)) not in returned:
            run.report(NOTE, KEPT, f"a tensor {tuple(tensor.shape)}", line)
