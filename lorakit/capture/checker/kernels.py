"""Triton launches under `lint`: looked at, then interpreted, or skipped with a note."""

import contextlib
from collections.abc import Callable, Iterator
from unittest import mock

from torch import Tensor

from lorakit.capture.checker.findings import BREAKS, NOTE
from lorakit.capture.checker.places import DEVICE, PINNED
from lorakit.capture.checker.run import Run
from lorakit.capture.checker.waits import STRANGER, Cause

SKIPPED = Cause("", "compiled for a GPU, so skipped: what it writes is not computed here",
                "TRITON_INTERPRET=1, set before Triton is imported, runs it on the CPU")


TUNED = Cause("L14", "it is autotuned: a capture refuses to try a new key. Here the first choice ran",
              "launch it once for each key, before")


def look(run: Run, kernel: object, grid: object, args: tuple, kwargs: dict) -> str:
    """Record a launch as a graph would: the grid, each number, and where the tensors lie."""
    name = f"triton {getattr(getattr(kernel, 'fn', kernel), '__name__', 'kernel')}"
    given = {str(key): value for key, value in (*enumerate(args), *kwargs.items())}
    held = {key: value for key, value in given.items() if isinstance(value, Tensor)}
    for tensor in held.values():
        if run.places.of(tensor) not in (DEVICE, PINNED):
            if run.places.made(tensor):
                run.report(BREAKS, STRANGER, name)
            else:
                run.adopt(tensor, name)
    scalars = {key: value for key, value in given.items() if key not in held}
    with run.quiet():
        scalars["grid"] = grid(kwargs) if callable(grid) else grid
    run.launch(name, scalars, list(held.values()))
    return name


@contextlib.contextmanager
def watched(run: Run) -> Iterator[None]:
    """Watch every way to launch a Triton kernel. Does nothing without Triton."""
    try:
        from triton.compiler import CompiledKernel
        from triton.runtime.autotuner import Autotuner
        from triton.runtime.interpreter import InterpretedFunction
        from triton.runtime.jit import JITFunction
    except ImportError:
        yield
        return
    interpret = InterpretedFunction.run

    def interpreted(kernel: InterpretedFunction, *args, grid, warmup, **kwargs) -> object:
        if not run.is_quiet:
            look(run, kernel, grid, args, kwargs)
        with run.quiet():
            return interpret(kernel, *args, grid=grid, warmup=warmup, **kwargs)

    def skipped(kernel: object, *args, grid, warmup=False, **kwargs) -> None:
        run.report(NOTE, SKIPPED, look(run, kernel, grid, args, kwargs))

    def compiled(kernel: CompiledKernel, grid: object) -> Callable[..., None]:
        return lambda *args, **kwargs: skipped(kernel, *args, grid=grid, **kwargs)

    def tuned(kernel: Autotuner, *args, **kwargs) -> object:
        run.report(NOTE, TUNED, f"triton {kernel.base_fn.__name__}")
        return kernel.fn.run(*args, **kwargs | kernel.configs[0].all_kwargs())

    with (mock.patch.object(InterpretedFunction, "run", interpreted),
          mock.patch.object(Autotuner, "run", tuned),
          mock.patch.object(JITFunction, "run", skipped),
          mock.patch.object(CompiledKernel, "__getitem__", compiled)):
        yield
