"""The timeline's arithmetic on a hand-made trace, its drawing, and on a GPU a real recording."""

import matplotlib
import pytest
import torch

from book import figures
from lorakit import timeline

matplotlib.use("Agg")


def row(cat: str, name: str, start: float, duration: float, correlation: int) -> dict:
    return {"cat": cat, "name": name, "ts": start, "dur": duration,
            "args": {"correlation": correlation}}


def trace() -> dict:
    """Two graphs of two kernels each; between them the host waits and one kernel routes."""
    return {"traceEvents": [
        {"ph": "M", "name": "a row without a category"},
        row("cuda_runtime", "cudaGraphLaunch", 0, 5, 1),
        row("kernel", "gemm", 10, 40, 1), row("kernel", "shrink", 50, 50, 1),
        row("cuda_runtime", "cudaStreamSynchronize", 20, 85, 2),
        row("cuda_runtime", "cudaLaunchKernel", 110, 2, 3), row("kernel", "cumsum", 115, 5, 3),
        row("cuda_runtime", "cudaGraphLaunch", 120, 5, 4),
        row("kernel", "gemm", 130, 40, 4), row("kernel", "shrink", 170, 50, 4),
        row("cuda_runtime", "cudaDeviceSynchronize", 130, 90, 5),
    ]}


def test_a_step_is_what_lies_between_two_graphs():
    events = timeline.parse(trace())
    assert timeline.graphs(events) == [(1, 10, 100), (4, 130, 220)]
    assert timeline.steps(events) == [timeline.Step(host_waits_us=85, gpu_work_us=5, gpu_idle_us=25)]


def test_events_know_their_lane_and_their_launch():
    events = timeline.parse(trace())
    assert [e.start_us for e in events] == sorted(e.start_us for e in events)
    assert {e.name: (e.lane, e.launched_by) for e in events if e.lane == "gpu"} == {
        "gemm": ("gpu", "cudaGraphLaunch"), "shrink": ("gpu", "cudaGraphLaunch"),
        "cumsum": ("gpu", "cudaLaunchKernel")}


def colours(ax) -> set[str]:
    return {matplotlib.colors.to_hex(patch.get_facecolor()).upper() for patch in ax.patches}


def test_the_drawing_shows_waits_graphs_and_routing():
    figures.draw_timeline({"one": timeline.parse(trace())}, first_step=0, steps=1)
    ax = matplotlib.pyplot.gcf().axes[0]
    assert colours(ax) == {"#555555", "#D55E00", "#0072B2", "#E69F00"}
    matplotlib.pyplot.close("all")


def test_a_batch_is_drawn_in_the_colours_of_its_adapters():
    slots, permutation = [1, 0, -1, 1], [1, 0, 3, 2]
    figures.draw_permutation(slots, permutation, [0, 1, 3])
    ax = matplotlib.pyplot.gcf().axes[0]
    labels = [t.get_text() for t in ax.texts]
    assert colours(ax) == {figures.color_of(0), figures.color_of(1), figures.NONE_COLOR}
    assert labels[:8] == ["0", "1", "2", "3", "1", "0", "3", "2"]
    matplotlib.pyplot.close("all")


def test_a_programs_box_is_filled_as_far_as_its_tile():
    _, ax = matplotlib.pyplot.subplots()
    figures.draw_programs([20, 0], [0, 1], 32, 16, ax, "")
    filled = [p.get_width() / 0.92 for p in ax.patches[1::2]]
    assert filled == pytest.approx([1.0, 0.25, 0.0, 0.0])
    matplotlib.pyplot.close("all")


@pytest.mark.gpu
def test_a_recording_sees_waits_and_graphs():
    x = torch.zeros(1024, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x.add_(1)

    def work():
        for _ in range(3):
            graph.replay()
            x[0] = torch.tensor(1.0)

    events = timeline.record(work)
    assert len(timeline.graphs(events)) == 3
    assert all(step.host_waits_us > 0 for step in timeline.steps(events))
