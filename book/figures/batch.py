"""A batch as coloured rows: tokens, their permutation, and the programs that take them."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from book.figures.style import color_of, draw_row, draw_bounds, finish


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


def draw_scan(slots: Sequence[int], segment: int) -> None:
    """A segment's own tokens, the running count over all tokens, and the places that it gives."""
    _, ax = plt.subplots(figsize=(6.4, 3.2))
    keys = [slot if slot >= 0 else len(slots) for slot in slots]
    before, running = sum(key < keys[slots.index(segment)] for key in keys), 0
    draw_row(ax, [s if s == segment else None for s in slots], range(len(slots)), y=2.6)
    places = {}
    for token, slot in enumerate(slots):
        if slot == segment:
            places[before + running] = token
            ax.plot([token + 0.48, before + running + 0.48], [1.45, 0.96],
                    color=color_of(segment), lw=2)
            running += 1
        ax.text(token + 0.48, 1.8, str(running), ha="center", va="center",
                weight="bold" if slot == segment else "normal")
    draw_row(ax, [segment if p in places else None for p in range(len(slots))],
             [places.get(p, "") for p in range(len(slots))], y=0)
    for place in range(len(slots)):
        ax.text(place + 0.48, -0.12, str(place), ha="center", va="top", fontsize=9)
    for y, label in ((3.08, "token"), (1.8, "count"), (0.48, "holds"), (-0.28, "place")):
        ax.text(-0.15, y, label, ha="right", va="center")
    finish(ax, len(slots), bottom=-0.5, top=3.6, left=-1.1)
