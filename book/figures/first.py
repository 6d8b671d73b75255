"""A kernel that is kept from one launch, and used for all others."""

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from book.figures.style import INK, WAY_COLORS


def draw_kept(lost: dict[int, dict[int, int]], xlabel: str, ylabel: str) -> None:
    """A row for each launch that a kernel was kept from, a column for each that it was used for: how
    many tokens were lost, in a box that is filled where there are any."""
    columns = list(next(iter(lost.values())))
    _, ax = plt.subplots(figsize=(6.4, 0.9 + 0.42 * len(lost)))
    for y, row in enumerate(lost.values()):
        for x, count in enumerate(row.values()):
            ax.add_patch(Rectangle((x, y), 0.94, 0.9, fc=WAY_COLORS[1] if count else "#EDEDED", lw=0))
            ax.text(x + 0.47, y + 0.45, str(count), ha="center", va="center",
                    color="white" if count else INK)
    ax.set(xlim=(0, len(columns)), ylim=(len(lost), 0), xlabel=xlabel, ylabel=ylabel)
    ax.xaxis.set_ticks([x + 0.47 for x in range(len(columns))], [str(column) for column in columns])
    ax.yaxis.set_ticks([y + 0.45 for y in range(len(lost))], [str(first) for first in lost])
    ax.tick_params(length=0)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    plt.tight_layout()
