"""What a graph holds: its operations, and the memory that each of them reads and writes."""

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Rectangle

from book.figures.style import COLORS, INK, WAY_COLORS, finish

if TYPE_CHECKING:
    from lorakit.capture.recorder import Recorder


def draw_recording(graph: "Recorder", names: dict[str, torch.Tensor]) -> None:
    """A row for each operation but views, a column for each memory: R where it reads, W where it
    writes. Columns from outside stand on grey, with their names; frozen scalars stand at the right."""
    calls = [c for c in graph.calls if any(m.written for m in c.given + c.results)]
    uses = [{m.place: m for m in sorted(c.given + c.results, key=lambda m: m.written)} for c in calls]
    outside = {m.place: m.address != 0 for memories in uses for m in memories.values()}
    columns = sorted(outside, key=lambda place: (not outside[place], place))
    known = {graph.places.get(t.untyped_storage().data_ptr()): name for name, t in names.items()}
    top = 1.0 + 0.19 * max(map(len, names))  # room for the names
    _, ax = plt.subplots(figsize=(6.4, 0.3 + 0.27 * (len(calls) + top)))
    for x, place in enumerate(columns):
        if outside[place]:
            ax.add_patch(Rectangle((x, -len(calls)), 1, len(calls), fc="#E9E9E9", lw=0))
        ax.text(x + 0.3, 0.25, known.get(place, "made"), rotation=50, ha="left", va="bottom",
                fontsize=9, color=INK if place in known else "#777777", rotation_mode="anchor")
    for row, (call, memories) in enumerate(zip(calls, uses)):
        ax.text(-0.3, -row - 0.5, call.op.split(".")[1], ha="right", va="center", fontsize=9)
        frozen = ", ".join(f"{name}={value}" for name, value in call.scalars.items())
        ax.text(len(columns) + 0.3, -row - 0.5, frozen, va="center", fontsize=9, color=COLORS[5])
        for place, memory in memories.items():
            x, color = columns.index(place), COLORS[0] if memory.written else "#FFFFFF"
            ax.add_patch(Rectangle((x + 0.07, -row - 0.93), 0.86, 0.86, fc=color, ec=WAY_COLORS[0]))
            ax.text(x + 0.5, -row - 0.52, "W" if memory.written else "R", ha="center", va="center",
                    fontsize=9, color="white" if memory.written else INK)
    room = max(6.4 / 0.3 - len(columns), 8) / 2
    finish(ax, len(columns) + room, bottom=-len(calls) - 0.2, top=top, left=-room * 0.8)
