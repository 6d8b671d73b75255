"""Which program of a launch works on which tokens, and which one was never launched."""

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from book.figures.style import DARK, INK, color_of


def draw_launched(panels: dict[str, tuple[list[int], list[int], int, int]], column="token") -> None:
    """A row for each program that has tokens. panels: title -> (bounds, owners, launched, live).

    A dashed outline is a segment whose program was never launched; a hatched box is a segment
    behind the `live` ones of the batch, which another batch has left."""
    rows = max(max(launched, *(p + 1 for p in range(len(owners)) if bounds[p] < bounds[p + 1]))
               for bounds, owners, launched, _ in panels.values())
    width = max(max(bounds) for bounds, *_ in panels.values())
    _, axes = plt.subplots(1, len(panels), figsize=(6.4, 1.1 + 0.26 * rows), sharey=True, squeeze=False)
    for ax, (title, (bounds, owners, launched, live)) in zip(axes[0], panels.items()):
        for program, (start, end, slot) in enumerate(zip(bounds, bounds[1:], owners)):
            never, stale, color = program >= launched, program >= live, color_of(slot)
            if start < end:
                ax.add_patch(Rectangle((start + 0.05, program + 0.1), end - start - 0.1, 0.8, lw=1.5,
                                       fc="none" if never else color, ec=INK if stale else color,
                                       ls="--" if never else "-", hatch="////" if stale else None))
                ax.text((start + end) / 2, program + 0.52, "none" if slot < 0 else str(slot), fontsize=9,
                        ha="center", va="center", color="white" if color in DARK and not never else INK,
                        bbox={"fc": color, "ec": "none", "pad": 1} if stale and not never else None)
        ax.axhline(launched, color=INK, lw=2)
        ax.set(xlim=(0, width), ylim=(rows + 0.1, -0.1), xticks=range(width + 1), xlabel=column,
               yticks=[row + 0.5 for row in range(rows)], yticklabels=range(rows))
        ax.spines[["left", "bottom"]].set_visible(False)
        ax.tick_params(axis="both", length=0, labelsize=9)
        ax.set_title(title, loc="left", fontsize=10)
    axes[0, 0].set_ylabel("program")
    plt.tight_layout()
