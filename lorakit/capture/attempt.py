"""Attempt: capture a function where a failure cannot hurt the caller, and say what came of it.

Chapter *The loud rules* shows what a refused capture leaves behind otherwise.
"""

import functools
import gc
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lorakit.capture import driver
from lorakit.capture.lines import Line, last_place
from lorakit.capture.rules import EARLIER, UNCLEAR, rule_of, rule_of_operation


@dataclass
class Attempt:
    """What came of one capture. Keep it as long as its graph is replayed."""

    graph: torch.cuda.CUDAGraph | None = None  # ready to replay; None if the capture was refused
    result: object = None  # what the function returned: its tensors hold data after a replay
    error: str | None = None  # the first error, in one line
    rule: str | None = None  # the rule that it names, as in the book's appendix, if it is known
    line: Line | None = None  # the line of the caller's code that was refused
    nodes: list[driver.Node] = field(default_factory=list)  # what was recorded, in order

    @property
    def kinds(self) -> dict[str, int]:
        """How many nodes of each kind the graph holds."""
        return dict(Counter(node.kind for node in self.nodes))


class FirstRefused(TorchDispatchMode):
    """Remembers the first PyTorch operation that raised an error: CUDA's own text does not say."""

    refused: str | None = None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        try:
            return func(*args, **(kwargs or {}))
        except Exception as error:
            if "during capture" not in str(error):  # else it fell to an earlier one
                self.refused = self.refused or func.__name__
            raise


def attempt(fn: Callable[[], object], error_mode: str = "thread_local",
            pool: tuple[int, int] | None = None) -> Attempt:
    """Capture one call of fn() in a graph of its own, and mend what a refusal leaves behind.

    Args:
        fn: launches work on the current stream of the current GPU. It is called as it is:
            call it before, so that compilation and library handles stay out.
        error_mode: "thread_local" lets other threads go on with their work; "global" is PyTorch's
            default; "relaxed" allows some unsafe calls. Chapter *The loud rules* compares them.
        pool: memory pool to share with other graphs, from `torch.cuda.graph_pool_handle()`.

    Returns:
        The graph, or the first error with the line and, where it can be told, the rule.

    Synchronises before. Nothing of fn's GPU work runs. What fn does on the host happens, and once
    more if CUDA's error does not tell which rule it was.

    Raises:
        RuntimeError: without a GPU, or if the current stream is capturing already.
        TypeError: if fn cannot be called.
    """
    require_gpu("attempt", fn)
    found, error = capture_once(fn, error_mode, pool)
    if error is None:
        return found
    place = last_place(error.__traceback__)
    found.line, found.rule = place and Line.at(*place), rule_of(error)
    if found.rule in (UNCLEAR, EARLIER):
        watch = FirstRefused()
        with watch:
            _, again = capture_once(fn, error_mode, pool)
        if again:
            again.__traceback__ = None  # it holds frames, and they hold tensors
        if watch.refused or found.rule == UNCLEAR:
            found.rule = rule_of_operation(watch.refused)
    found.error = f"{type(error).__name__}: {str(error)}".splitlines()[0].strip()
    error.__traceback__ = None
    return found


@functools.cache
def capture_stream(device: int) -> torch.cuda.Stream:
    """The stream of all captures on that GPU: libraries keep a workspace for each stream."""
    return torch.cuda.Stream(device)


def capture_once(fn: Callable[[], object], error_mode: str,
                 pool: tuple[int, int] | None) -> tuple[Attempt, Exception | None]:
    """One capture: what it recorded, or the first error. Mends the process. Synchronises before."""
    graph, stream = torch.cuda.CUDAGraph(keep_graph=True), capture_stream(torch.cuda.current_device())
    result, error, pool = None, None, pool or torch.cuda.graph_pool_handle()
    gc.collect()  # a graph that dies during the capture would end it: L15
    torch.cuda.synchronize()
    with warnings.catch_warnings(), torch.cuda.stream(stream):
        warnings.filterwarnings("ignore", "The CUDA Graph is empty")
        graph.capture_begin(pool=pool, capture_error_mode=error_mode)
        try:
            result = fn()
        except Exception as refused:
            error = refused
        finally:
            torch.cuda.set_stream(stream)  # fn may have changed it
            try:
                graph.capture_end()
            except RuntimeError as refused:
                error = error or refused
                driver.mend(graph, stream, pool)
    if error is not None:
        graph.reset()
        return Attempt(), error
    graph.instantiate()
    return Attempt(graph, result, nodes=driver.nodes(graph)), None


def require_gpu(caller: str, fn: object) -> None:
    """Check that a capture can be tried now.

    Raises:
        RuntimeError: without a GPU, or inside of a capture.
        TypeError: if fn cannot be called.
    """
    if not callable(fn):
        raise TypeError(f"fn must be callable, got {type(fn).__name__}")
    if not torch.cuda.is_available():
        raise RuntimeError(f"{caller} captures on a GPU, and this machine has none")
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError(f"{caller} begins a capture, and the current stream is capturing already")
