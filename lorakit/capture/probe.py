"""probe: does a function block the host, can it be captured, and what does its graph hold?

Chapters *The seg_indptr sync bug* and *The loud rules* derive the measurements.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lorakit import timing
from lorakit.capture.attempt import attempt, require_gpu
from lorakit.capture.lines import Line, lines_that_wait

LEAST_QUEUED_MS = 10.0
QUEUE_HOLDS = 900  # launches, a little less than CUDA takes before the host must wait for room


@dataclass(frozen=True)
class Report:
    """What `probe` found. A person prints it, a test asserts on its fields."""

    name: str  # of the function
    blocks_host: bool  # it waits for work that was queued before it
    host_ms: float  # host milliseconds of one call behind `queued_ms` of queued work, the median
    queued_ms: float
    blocking: tuple[Line, ...]  # each line of the caller's code that waited
    capturable: bool  # a capture took it
    error: str | None  # the first error of the capture, None if it was taken
    rule: str | None  # the rule that the error names, "L3" for example
    line: Line | None  # the line that the capture refused
    nodes: dict[str, int]  # what was recorded: {"kernel": 3, "memcpy": 1}

    def __str__(self) -> str:
        waits = "waits for the GPU" if self.blocks_host else "does not wait for the GPU"
        said = [f"{self.name}: {waits} "
                f"({self.host_ms:.2f} ms behind {self.queued_ms:.0f} ms of queued work)"]
        said += [f"  {line.ms:.1f} ms at {line}" for line in self.blocking]
        if self.capturable:
            nodes = ", ".join(f"{count} {kind}" for kind, count in self.nodes.items()) or "nothing"
            said.append(f"  can be captured: {nodes}")
        else:
            said.append(f"  cannot be captured{f' ({self.rule})' if self.rule else ''}: {self.error}")
            said += [f"  at {self.line}"] if self.line else []
        return "\n".join(said)


def probe(fn: Callable[..., object], *args: object) -> Report:
    """Find out what a function would do to a decode step, by trying it.

    Calls fn(*args) a dozen times: to warm it up, behind queued work with a clock and once line by
    line, and in a capture that is thrown away. So fn must bear being called again, and what it
    writes is written again. Random numbers go on as if it had not been called. It sees waits for
    the current stream, whoever waits; it does not see a frozen value: `assert_graph_safe` does. A
    function of more than some 900 launches must wait for room in the queue; that is not counted if
    it can be captured.

    Raises:
        RuntimeError: without a GPU, or inside of a capture.
        TypeError: if fn cannot be called.
        Whatever fn raises by itself, outside of a capture.
    """
    require_gpu("probe", fn)

    def step() -> object:
        return fn(*args)

    with torch.random.fork_rng(devices=[torch.cuda.current_device()]):
        waited, tried = waits(step), attempt(step)
        crowded = tried.graph is not None and len(tried.nodes) > QUEUE_HOLDS
        blocking = lines_that_wait(step, waited.queued_ms) if waited.blocks_host and not crowded else []
    return Report(getattr(fn, "__name__", type(fn).__name__), waited.blocks_host and not crowded,
                  waited.host_ms, waited.queued_ms, tuple(blocking), tried.graph is not None,
                  tried.error, tried.rule, tried.line, tried.kinds)


@dataclass(frozen=True)
class Waits:
    """Whether a call waits for the GPU, measured."""

    blocks_host: bool
    host_ms: float  # of one call behind the queued work, the median
    queued_ms: float


def waits(step: Callable[[], object]) -> Waits:
    """Time step() behind queued work, far longer than the host needs by itself. Synchronises."""
    idle_ms = timing.host_ms(step, queued_ms=0.0, repeats=3)
    queued_ms = max(LEAST_QUEUED_MS, 8 * idle_ms)
    behind_ms = timing.host_ms(step, queued_ms, repeats=3)
    return Waits(behind_ms > queued_ms / 2, behind_ms, queued_ms)
