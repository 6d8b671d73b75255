"""Where the tensors of several captures lie in the memory that they share."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from book.figures.style import INK, WAY_COLORS


def draw_pool(lanes: dict[str, Sequence[tuple[int, int]]], marked: tuple[int, int]) -> None:
    """A lane for each capture: its tensors, (first byte, end) in the order in which they were made.

    The first one of each is its output, in colour. Dashed lines bound what is `marked`.
    """
    _, ax = plt.subplots(figsize=(6.4, 0.9 + 0.7 * len(lanes)))
    for row, (name, spans) in enumerate(lanes.items()):
        for i, (first, end) in enumerate(spans):
            color = "#E4E4E4" if i else WAY_COLORS[row % len(WAY_COLORS)]
            ax.add_patch(Rectangle((first / 1024, -row - 0.35), (end - first) / 1024, 0.7, fc=color,
                                   ec="white" if i == 0 else "#9A9A9A", lw=0.8))
        first, end = spans[0]
        ax.text((first + end) / 2048, -row, "output", ha="center", va="center", color="white")
    for bound in marked:
        ax.axvline(bound / 1024, color=INK, lw=1.4, ls="--")
    ax.set(ylim=(0.55 - len(lanes), 0.55), xlabel="KiB from the first byte of the pool")
    ax.set_xlim(-0.3, max(end for spans in lanes.values() for _, end in spans) / 1024 + 0.3)
    ax.set_yticks([-row for row in range(len(lanes))], lanes)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    plt.tight_layout()
