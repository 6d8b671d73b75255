"""Colours, and the pieces that several figures share.

One colour an adapter throughout the book (six of Okabe and Ito's, which colour-blind readers tell
apart, and two more of middle brightness), grey for tokens without one. The page inverts figures in
dark mode, so a figure is drawn once.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999933", "#8A6FDF")
NONE_COLOR, INK = "#BDBDBD", "#222222"
WAY_COLORS = ("#4C5B6B", "#A3586D", "#5C8A72", "#C9A24B", "#7F8FA9")  # not of adapters
DARK = {"#0072B2", "#009E73", "#D55E00", "#8A6FDF"}  # these take white text

plt.rcParams.update({
    "figure.dpi": 160, "figure.facecolor": "white", "font.size": 10.5, "axes.titlesize": 11,
    "axes.spines.top": False, "axes.spines.right": False, "text.color": INK,
})


def color_of(slot: int) -> str:
    """The colour of an adapter slot, or grey for a slot below 0."""
    return COLORS[slot % len(COLORS)] if slot >= 0 else NONE_COLOR


def draw_row(ax: Axes, slots: Sequence[int | None], labels: Sequence[object], y: float) -> None:
    """A row of boxes at height y, each with its label; pale where the slot is None."""
    for place, (slot, label) in enumerate(zip(slots, labels)):
        color = "#EDEDED" if slot is None else color_of(slot)
        ax.add_patch(Rectangle((place, y), 0.96, 0.96, fc=color, lw=0))
        ax.text(place + 0.48, y + 0.48, str(label), ha="center", va="center",
                color="white" if color in DARK else INK)


def draw_bounds(ax: Axes, seg_indptr: Sequence[int], y: float) -> None:
    """A tick under the row at each bound; a bound that repeats is an empty segment."""
    for bound in sorted(set(seg_indptr)):
        times = list(seg_indptr).count(bound)
        ax.plot([bound - 0.02] * 2, [y - 0.25, y + 1.05], color=INK, lw=1.6)
        ax.text(bound - 0.02, y - 0.32, f"{bound}" + (f" (x{times})" if times > 1 else ""),
                ha="center", va="top", fontsize=9)


def label_logarithmic(ax: Axes) -> None:
    """A logarithmic y axis with plain numbers at 1, 2, 5, 10, 20, 50 and so on."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    ax.yaxis.set_minor_locator(NullLocator())


def finish(ax: Axes, width: int, bottom: float, top: float, left: float = -0.3) -> None:
    """No axes: the boxes speak."""
    ax.set(xlim=(left, width + 0.3), ylim=(bottom, top))
    ax.axis("off")
    plt.tight_layout()
