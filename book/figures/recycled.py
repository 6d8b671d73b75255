"""The figure of *Right until the next prompt*."""

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from book.figures.style import WAY_COLORS


def draw_taken(taken: dict[int, list[int]], longest: int = 72) -> None:
    """A row for each table, of so many scalings; a filled square for each prompt that gets its block."""
    _, ax = plt.subplots(figsize=(6.4, 0.9 + 0.42 * len(taken)))
    for y, lengths in enumerate(taken.values()):
        for length in range(1, longest + 1):
            color = WAY_COLORS[1] if length in lengths else "#E6E6E6"
            ax.add_patch(Rectangle((length - 0.45, y - 0.36), 0.9, 0.72, fc=color, lw=0))
    ax.set(xlim=(0.2, longest + 0.8), ylim=(len(taken) - 0.4, -0.6), xlabel="tokens of the prompt")
    ax.set_yticks(range(len(taken)), [f"{scalings} scalings" for scalings in taken])
    ax.set_xticks([1, 4, 8, 16, 32, 64])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    plt.tight_layout()
