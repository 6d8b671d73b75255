"""The book's figures, drawn from the very tensors and events that a cell holds.

One colour an adapter throughout the book (six of Okabe and Ito's, which colour-blind readers tell
apart, and two more of middle brightness), grey for tokens without one. The page inverts figures in
dark mode, so a figure is drawn once.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from lorakit.timeline import WAITS, Event, graphs

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999933", "#8A6FDF")
NONE_COLOR, INK = "#BDBDBD", "#222222"
DARK = {"#0072B2", "#009E73", "#D55E00", "#8A6FDF"}  # these take white text

plt.rcParams.update({
    "figure.dpi": 160, "figure.facecolor": "white", "font.size": 10.5, "axes.titlesize": 11,
    "axes.spines.top": False, "axes.spines.right": False, "text.color": INK,
})


def color_of(slot: int) -> str:
    """The colour of an adapter slot, or grey for a slot below 0."""
    return COLORS[slot % len(COLORS)] if slot >= 0 else NONE_COLOR


def draw_batch(slots: Sequence[int], seg_indptr: Sequence[int], title: str = "") -> None:
    """A row of tokens in the colours of their adapters, with the bounds that cut it."""
    _, ax = plt.subplots(figsize=(6.4, 1.6 if seg_indptr else 1.0))
    draw_row(ax, slots, range(len(slots)), y=0)
    draw_bounds(ax, seg_indptr, y=0)
    ax.set_title(title, loc="left")
    finish(ax, len(slots), bottom=-0.75 if seg_indptr else 0.0, top=1.0)


def draw_permutation(slots: Sequence[int], permutation: Sequence[int],
                     seg_indptr: Sequence[int]) -> None:
    """Tokens above, places below, and a line from each place to the token it holds."""
    _, ax = plt.subplots(figsize=(6.4, 3.0))
    draw_row(ax, slots, range(len(slots)), y=2)
    draw_row(ax, [slots[token] for token in permutation], permutation, y=0)
    for place, token in enumerate(permutation):
        ax.plot([token + 0.5, place + 0.5], [2, 1], color=color_of(slots[token]), lw=2)
    draw_bounds(ax, seg_indptr, y=0)
    ax.text(-0.15, 2.5, "token", ha="right", va="center")
    ax.text(-0.15, 0.5, "place", ha="right", va="center")
    finish(ax, len(slots), bottom=-0.75, top=3.0, left=-1.1)


def draw_strips(slots: Sequence[int], permutation: Sequence[int]) -> None:
    """A large batch before and after the sort, one thin bar a token."""
    _, axes = plt.subplots(2, 1, figsize=(6.4, 1.9), sharex=True)
    for ax, order, title in ((axes[0], range(len(slots)), "as the requests came"),
                             (axes[1], permutation, "sorted by adapter")):
        for place, token in enumerate(order):
            ax.add_patch(Rectangle((place, 0), 1, 1, color=color_of(slots[token]), lw=0))
        ax.set(xlim=(0, len(slots)), ylim=(0, 1), yticks=[])
        ax.set_title(title, loc="left")
        ax.spines["left"].set_visible(False)
    axes[1].set_xlabel("place")
    plt.tight_layout()


def draw_programs(seg_lens: Sequence[int], slots: Sequence[int], max_len: int, block: int,
                  ax: Axes, title: str) -> None:
    """The grid that a kernel launches: a box a program, filled as far as its tile has tokens."""
    tiles = -(-max_len // block)
    for segment, (length, slot) in enumerate(zip(seg_lens, slots)):
        for tile in range(tiles):
            used = min(max(length - tile * block, 0), block) / block
            ax.add_patch(Rectangle((tile, segment), 0.92, 0.86, fc="#EDEDED", lw=0))
            ax.add_patch(Rectangle((tile, segment), 0.92 * used, 0.86, fc=color_of(slot), lw=0))
    ax.set(xlim=(0, tiles), ylim=(len(seg_lens), 0), xlabel="tile", ylabel="segment")
    for axis, count in ((ax.xaxis, tiles), (ax.yaxis, len(seg_lens))):
        ticks = range(0, count, 1 if count <= 8 else count // 4)
        axis.set_ticks([tick + 0.45 for tick in ticks], [str(tick) for tick in ticks])
    ax.set_title(title, loc="left")


def draw_timeline(panels: dict[str, list[Event]], first_step: int = 2, steps: int = 3) -> None:
    """Host and GPU lanes of several runs, one under the other on one scale of time."""
    _, axes = plt.subplots(len(panels), 1, figsize=(6.4, 1.9 * len(panels)), sharex=True,
                           squeeze=False)
    axes = axes[:, 0]
    for ax, (title, events) in zip(axes, panels.items()):
        replays = graphs(events)
        origin, end = replays[first_step][1], replays[first_step + steps][1]
        for event in events:
            if event.end_us < origin or event.start_us > end:
                continue
            start, width = (event.start_us - origin) / 1e3, (event.end_us - event.start_us) / 1e3
            y, color = (1, "#D55E00" if event.name in WAITS else "#555555")
            if event.lane == "gpu":
                y, color = 0, "#0072B2" if event.launched_by == "cudaGraphLaunch" else "#E69F00"
            ax.add_patch(Rectangle((start, y), max(width, 0.004), 0.7, color=color, lw=0))
        for (_, _, before), (_, after, _) in zip(replays[first_step:], replays[first_step + 1:]):
            if before < end:
                ax.annotate("", ((after - origin) / 1e3, -0.15), ((before - origin) / 1e3, -0.15),
                            arrowprops={"arrowstyle": "-", "color": INK, "lw": 2.5})
        ax.set(xlim=(0, (end - origin) / 1e3), ylim=(-0.35, 1.8), yticks=[0.35, 1.35],
               yticklabels=["GPU", "host"])
        ax.tick_params(axis="y", length=0)
        ax.spines["bottom"].set_visible(ax is axes[-1])
        ax.tick_params(axis="x", length=3 if ax is axes[-1] else 0)
        ax.set_title(title, loc="left")
    axes[-1].set_xlabel("milliseconds")
    handles = [Rectangle((0, 0), 1, 1, color=c) for c in ("#555555", "#D55E00", "#0072B2", "#E69F00")]
    axes[0].legend(handles, ["launches", "waits", "model's graph", "routing"], ncols=4, loc="lower right",
                   bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9, handlelength=1, columnspacing=1)
    plt.tight_layout()


def draw_row(ax: Axes, slots: Sequence[int], labels: Sequence[int], y: float) -> None:
    """A row of boxes at height y, each with its label."""
    for place, (slot, label) in enumerate(zip(slots, labels)):
        color = color_of(slot)
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


def finish(ax: Axes, width: int, bottom: float, top: float, left: float = -0.3) -> None:
    """No axes: the boxes speak."""
    ax.set(xlim=(left, width + 0.3), ylim=(bottom, top))
    ax.axis("off")
    plt.tight_layout()
