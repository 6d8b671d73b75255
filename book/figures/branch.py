"""What two graphs of one step hold, and whom their replays serve."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from book.figures.style import DARK, INK, WAY_COLORS, color_of, finish

WIDTH, LAUNCHES = 2.5, 3  # of a launch, in tokens; room for so many


def draw_graphs(rows: dict[str, tuple[Sequence[str], Sequence[int]]]) -> None:
    """A row for each graph: title -> (its launches in order, what its replay added to each token).

    A token has the colour of the adapter that has worked on it, and grey where none has.
    """
    _, ax = plt.subplots(figsize=(6.4, 0.35 + 1.05 * len(rows)))
    start = WIDTH * LAUNCHES + 1.0
    for row, (title, (launches, added)) in enumerate(rows.items()):
        y = -1.75 * row
        ax.text(0, y + 1.15, title, va="bottom")
        for place in range(LAUNCHES):
            color = WAY_COLORS[place] if place < len(launches) else "#EDEDED"
            ax.add_patch(Rectangle((place * WIDTH, y), WIDTH - 0.1, 0.96, fc=color, lw=0))
            if place < len(launches):
                ax.text((place + 0.48) * WIDTH, y + 0.48, launches[place].removesuffix("_kernel"),
                        ha="center", va="center", color="white")
        ax.annotate("", (start - 0.15, y + 0.48), (start - 1.0, y + 0.48), arrowprops={"arrowstyle": "->"})
        for place, number in enumerate(added):
            color = color_of(number // 10 - 1)
            ax.add_patch(Rectangle((start + place, y), 0.94, 0.96, fc=color, lw=0))
            ax.text(start + place + 0.47, y + 0.48, str(number), ha="center", va="center",
                    color="white" if color in DARK else INK)
    width = start + max(len(added) for _, added in rows.values())
    finish(ax, width, bottom=-1.75 * (len(rows) - 1) - 0.2, top=1.8)
