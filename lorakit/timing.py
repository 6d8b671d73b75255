"""Two stopwatches: how long a call holds the host, and how long its work takes in a graph.

On an idle GPU a call that waits for it returns at once, so nothing shows. Queue a known delay
first: a call that waits then takes at least that long, and one that does not returns in
microseconds. Chapter *The seg_indptr sync bug* derives this.
"""

import functools
import statistics
import time
from collections.abc import Callable, Sequence

import torch

WARM_UP_MS = 20.0  # an idle GPU lowers its clock, and takes some milliseconds to raise it
FLUSH_BYTES = 2**28  # several times what any L2 cache holds today
QUEUED_MS = 0.3  # longer than the host takes to record an event and launch a graph


@functools.cache
def cycles_per_ms(device: int) -> float:
    """Clock cycles of that GPU in a millisecond of `queue_work`, measured once. Synchronises."""
    cycles = 20_000_000
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(cycles)  # warm up
        start.record()
        torch.cuda._sleep(cycles)
        end.record()
        end.synchronize()
    return cycles / start.elapsed_time(end)


def queue_work(ms: float) -> None:
    """Keep the current stream busy for about `ms` milliseconds.

    The first call on a GPU measures its clock and synchronises; later ones do not. The delay is a
    kernel that spins and touches no memory, so it stands for any earlier work in the stream. It
    cannot run inside a capture.
    """
    torch.cuda._sleep(int(ms * cycles_per_ms(torch.cuda.current_device())))


def host_ms(fn: Callable[[], object], queued_ms: float = 10.0, repeats: int = 5) -> float:
    """Median host milliseconds of `fn()` behind `queued_ms` of queued work on the GPU.

    About `queued_ms` means that `fn` waits for the GPU. Far below means that it does not. `fn`
    runs twice first, so that compilation and caches stay out. Synchronises around each repeat.

    Raises:
        RuntimeError: without a GPU.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("host_ms measures a GPU, and this machine has none")
    queue_work(0.0)
    for _ in range(2):
        fn()
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        queue_work(queued_ms)
        start = time.perf_counter()
        fn()
        times.append((time.perf_counter() - start) * 1e3)
    torch.cuda.synchronize()
    return statistics.median(times)


def graph_us(calls: Sequence[Callable[[], object]], repeats: int = 25,
             cold: bool = False) -> tuple[float, float]:
    """GPU microseconds of one call inside a CUDA graph: the median and the spread over replays.

    Args:
        calls: what one graph holds, in order. Give as many calls on different weights as exceed
            the L2 cache together to time them cold, or the same call several times for warm.
        repeats: replays timed, after three to warm up. Each waits in the queue behind other work, so
            that the time which the host takes to launch it does not count.
        cold: read 256 MiB before each replay, so that the L2 cache holds nothing that a call reads
            first. Then a few sets of weights are enough, if each call has its own.

    Returns:
        The median time of a replay divided by `len(calls)`, and the distance between the
        quartiles over the same number. Synchronises.

    Raises:
        RuntimeError: without a GPU, or if a call cannot be captured.
        ValueError: if there are no calls.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("graph_us measures a GPU, and this machine has none")
    if not calls:
        raise ValueError("calls must hold at least one call")
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    flush = torch.ones(FLUSH_BYTES // 4, device="cuda") if cold else None
    queue_work(WARM_UP_MS)
    times = []
    for _ in range(3 + repeats):
        queue_work(QUEUED_MS)
        if cold:
            flush.sum()  # reads, and leaves nothing to write back
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / len(calls))
    first, median, last = statistics.quantiles(times[3:], n=4)
    return median, last - first


@functools.cache
def copy_bytes_per_us(device: int) -> float:
    """Bytes a microsecond that this GPU's memory moves in a copy of 1 GiB, reads and writes counted.

    Measured once, by a kernel inside a graph. Chapter *One layer, many adapters* derives what it is
    good for: bytes over this rate are a floor for the time. Synchronises.

    Raises:
        RuntimeError: without a GPU.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("copy_bytes_per_us measures a GPU, and this machine has none")
    with torch.cuda.device(device):
        source = torch.ones(2**28, device="cuda")
        target = torch.empty_like(source)
        us, _ = graph_us([lambda: torch.neg(source, out=target)])  # a kernel, not the copy engine
    return 2 * source.nbytes / us
