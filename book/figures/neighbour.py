"""Figures of *The neighbour's adapter*."""

import matplotlib.pyplot as plt

from book.figures.style import INK, WAY_COLORS


def draw_failures(wrong: dict[str, dict[int, int]], of: int, predicted: dict[str, float]) -> None:
    """Wrong batches of each form over the queued microseconds; dashed: where a form should begin."""
    _, ax = plt.subplots(figsize=(6.4, 3.3))
    for i, (form, counts) in enumerate(wrong.items()):
        ax.plot(list(counts), list(counts.values()), "os^D"[i] + "-", ms=5, lw=1.8, color=WAY_COLORS[i],
                label=form)
        if form in predicted:
            ax.axvline(predicted[form], color=WAY_COLORS[i], lw=1.4, ls="--", zorder=0)
    ax.set(xlabel="microseconds of work queued before each step", ylabel=f"wrong of {of}",
           ylim=(-0.05 * of, 1.05 * of))
    ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=4, frameon=False, fontsize=9,
              handlelength=1.6, columnspacing=1)
    plt.tight_layout()


def draw_whose(owners: dict[str, list[int | None]]) -> None:
    """For each batch the batch whose slots it got; dashed: its own."""
    _, ax = plt.subplots(figsize=(6.4, 3.6))
    last = max(map(len, owners.values())) - 1
    for i, (name, theirs) in enumerate(owners.items()):
        points = [(batch, owner) for batch, owner in enumerate(theirs) if owner is not None]
        ax.plot(*zip(*points), "o", ms=3, color=WAY_COLORS[i], label=name)
    ax.plot([0, last], [0, last], color=INK, lw=1.2, ls="--", zorder=3)
    ax.set(xlabel="batch", ylabel="batch whose slots it got")
    ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3, frameon=False, fontsize=9,
              handlelength=1, columnspacing=1)
    plt.tight_layout()
