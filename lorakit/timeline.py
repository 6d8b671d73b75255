"""A timeline of host and GPU, recorded by PyTorch's profiler, and the gaps in it.

Only CUDA activity is recorded, because tracing every PyTorch operator slows the host by several
times. Even so the profiler makes each launch dearer: read *where* a gap is from a timeline, and
*how long* it is from a run without the profiler. Chapter *The seg_indptr sync bug* reads one.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

HOST = ("cuda_runtime", "cuda_driver")
GPU = ("kernel", "gpu_memcpy", "gpu_memset")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


@dataclass(frozen=True)
class Event:
    """One call of the CUDA runtime on the host, or one piece of work on the GPU."""

    lane: str  # "host" or "gpu"
    name: str  # of the runtime call, or of the kernel or copy
    launched_by: str  # gpu: the runtime call that launched it; host: its own name
    launch: int  # the profiler's number for that call; a graph's kernels share one
    start_us: float
    end_us: float


@dataclass(frozen=True)
class Step:
    """From the end of one graph on the GPU to the start of the next."""

    host_waits_us: float  # the host stood in a synchronising call, between the two graph launches
    gpu_work_us: float  # the GPU ran other work: the routing
    gpu_idle_us: float  # the GPU had nothing to do: the gap


def record(fn: Callable[[], object]) -> list[Event]:
    """Run `fn()` under the profiler and return its events in order of time. Synchronises.

    `fn` runs twice, the first time to let the profiler attach.

    Raises:
        RuntimeError: without a GPU.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("record watches a GPU, and this machine has none")
    for _ in range(2):
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA],
                                    acc_events=True) as profile:
            fn()
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        return parse(json.loads(path.read_text()))


def parse(trace: dict) -> list[Event]:
    """Events of a Chrome trace as the profiler writes it. Reads no GPU."""
    rows = [row for row in trace["traceEvents"] if row.get("cat") in HOST + GPU]
    calls = {row["args"].get("correlation"): row["name"] for row in rows if row["cat"] in HOST}
    events = []
    for row in rows:
        launch = row["args"].get("correlation", -1)
        events.append(Event("host" if row["cat"] in HOST else "gpu", row["name"],
                            calls.get(launch, "unknown"), launch, row["ts"], row["ts"] + row["dur"]))
    return sorted(events, key=lambda event: event.start_us)


def graphs(events: list[Event]) -> list[tuple[int, float, float]]:
    """(launch, start_us, end_us) of each graph replay, as it ran on the GPU. Reads no GPU."""
    spans: dict[int, tuple[float, float]] = {}
    for event in events:
        if event.lane == "gpu" and event.launched_by == "cudaGraphLaunch":
            start, end = spans.get(event.launch, (event.start_us, event.end_us))
            spans[event.launch] = (min(start, event.start_us), max(end, event.end_us))
    return [(launch, *span) for launch, span in sorted(spans.items(), key=lambda item: item[1])]


def steps(events: list[Event]) -> list[Step]:
    """The stretch before each graph but the first: what host and GPU did in it. Reads no GPU."""
    launched_at = {e.launch: e.start_us for e in events if e.name == "cudaGraphLaunch"}
    replays, found = graphs(events), []
    for (before, _, ended), (launch, started, _) in zip(replays, replays[1:]):
        waits = sum(e.end_us - e.start_us for e in events if e.name in WAITS
                    and launched_at[before] <= e.start_us < launched_at[launch])
        work = sum(e.end_us - e.start_us for e in events if e.lane == "gpu"
                   and ended <= e.start_us < started)
        found.append(Step(waits, work, started - ended - work))
    return found
