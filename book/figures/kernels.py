"""What a kernel reads and writes: memory, tiles, slices, and the processors that run it."""

import itertools
from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from book.figures.style import WAY_COLORS, DARK, NONE_COLOR, INK, color_of, draw_row, finish


def draw_to_scale(matrices: dict[str, tuple[int, int, str]]) -> None:
    """Matrices side by side on one scale: name -> (rows, columns, colour)."""
    _, ax = plt.subplots(figsize=(6.4, 2.9))
    tallest = max(rows for rows, _, _ in matrices.values())
    left, gap = 0.0, 0.25 * tallest
    for name, (rows, columns, color) in matrices.items():
        ax.add_patch(Rectangle((left, -rows), columns, rows, color=color, lw=0, snap=False))
        ax.text(left + columns / 2, 0.04 * tallest, name, ha="center", va="bottom")
        ax.text(left + columns / 2, -rows - 0.04 * tallest, f"{rows} x {columns}", ha="center",
                va="top", fontsize=9)
        left += columns + gap
    ax.set(xlim=(-gap, left), ylim=(-1.15 * tallest, 0.15 * tallest), aspect="equal")
    ax.axis("off")
    plt.tight_layout()


def draw_lanes(values: Sequence[int], owners: Sequence[int], first: int, lanes: int,
               inside: int) -> None:
    """Memory as one row, and above it the places that a program loads at once.

    Args:
        values, owners: what lies at each place, and the adapter of the row it belongs to.
        first, lanes: where the load begins and how many places it takes.
        inside: how many of them are the program's own; the others are drawn dashed.
    """
    _, ax = plt.subplots(figsize=(6.4, 1.5))
    draw_row(ax, owners, values, y=0)
    for lane in range(lanes):
        own = lane < inside
        ax.add_patch(Rectangle((first + lane + 0.06, 1.15), 0.84, 0.84, fill=False, ec=INK, lw=1.4,
                               ls="-" if own else ":"))
        ax.text(first + lane + 0.48, 1.57, str(lane), ha="center", va="center", fontsize=9)
    ax.text(-0.2, 1.57, "load", ha="right", va="center")
    ax.text(-0.2, 0.48, "memory", ha="right", va="center")
    finish(ax, len(values), bottom=-0.1, top=2.1, left=-2.4)


def draw_tiles(seg_lens: Sequence[int], slots: Sequence[int], hidden: int, tile: int,
               step: int) -> None:
    """What each live program reads of x: rows of its tile, steps along the hidden size."""
    live = [(segment, start) for segment, length in enumerate(seg_lens)
            for start in range(0, length, tile)]
    _, ax = plt.subplots(figsize=(6.4, 0.7 + 0.62 * len(live)))
    steps = -(-hidden // step)
    for program, (segment, start) in enumerate(live):
        rows, color = min(seg_lens[segment] - start, tile), color_of(slots[segment])
        ax.text(-1.0, program + 0.44, f"segment {segment}\n{rows} of {tile} rows", ha="right",
                va="center", fontsize=9)
        for k in range(steps):
            used = min(hidden - k * step, step)
            ax.add_patch(Rectangle((k * step, program), step - 0.3, 0.88, fc="#EDEDED", lw=0))
            ax.add_patch(Rectangle((k * step, program), min(used, step - 0.3), 0.88 * rows / tile,
                                   fc=color, lw=0))
            on_dark = color in DARK and rows > 0.8 * tile and used == step
            ax.text((k + 0.9) * step, program + 0.7, str(k), ha="center", va="center", fontsize=9,
                    color="white" if on_dark else INK)
    ax.set(xlim=(-0.3 * steps * step, steps * step), ylim=(len(live), -0.1), yticks=[],
           xticks=[*range(0, hidden, step), hidden], xlabel="hidden element")
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.xaxis.set_label_coords(0.62, -0.14)
    plt.tight_layout()


def draw_sms(slots: Sequence[int], sms: int, columns: int = 22) -> None:
    """The GPU's multiprocessors as boxes, one live program in each as long as there are any."""
    rows = -(-sms // columns)
    _, ax = plt.subplots(figsize=(6.4, 0.3 + 0.29 * rows))
    for sm in range(sms):
        color = color_of(slots[sm]) if sm < len(slots) else "#E4E4E4"
        ax.add_patch(Rectangle((sm % columns, sm // columns), 0.88, 0.88, fc=color, lw=0))
    ax.set(xlim=(-0.2, columns + 0.1), ylim=(rows, -0.1), aspect="equal")
    ax.axis("off")
    plt.tight_layout()


def draw_expand_program(slots: Sequence[int], slot: int, columns: range, outputs: int,
                        rank: int) -> None:
    """The parts of h, B and out that one program of expand touches, in colour on grey."""
    _, ax = plt.subplots(figsize=(6.4, 3.4))
    color, gap, row = color_of(slot), 3, 2.2
    height, left = row * len(slots), rank + gap
    for name, x, y, width, tall in (("h", 0, 0, rank, height), ("out", left, 0, outputs, height),
                                    ("B of its slot, turned", left, height + gap, outputs, rank)):
        ax.add_patch(Rectangle((x, y), width, tall, fc="#EDEDED", ec=NONE_COLOR))
        ax.text(x, y + tall + 0.4, name, va="bottom")
    ax.add_patch(Rectangle((left + columns.start, height + gap), len(columns), rank, fc=color))
    for token, owner in enumerate(slots):
        y = height - (token + 1) * row
        ax.text(-0.6, y + row / 2, str(token), ha="right", va="center", fontsize=9)
        for x, width in ((0, rank), (left + columns.start, len(columns))) if owner == slot else ():
            ax.add_patch(Rectangle((x, y), width, 0.92 * row, fc=color))
    ax.text(-2.5, height / 2, "token", rotation=90, ha="right", va="center")
    finish(ax, left + outputs, bottom=-0.3, top=height + rank + gap + 2.8, left=-4.5)


def draw_column_tiles(slice_sizes: dict[str, int], tilings: dict[str, list[tuple[int, int]]]) -> None:
    """Stacked slices above; below, each way to cut them into tiles, given as (start, end). A tile
    has the colour of the slice it starts in; where it reaches into another one, it is hatched."""
    _, ax = plt.subplots(figsize=(6.4, 0.5 + 0.75 * len(tilings)))
    bounds = list(itertools.accumulate(slice_sizes.values(), initial=0))
    for i, (name, size) in enumerate(slice_sizes.items()):
        ax.add_patch(Rectangle((bounds[i], -0.1), size, 0.6, fc=WAY_COLORS[i], lw=0))
        ax.text(bounds[i] + size / 2, 0.2, f"{name}: {size}", ha="center", va="center", color="white")
    for row, (title, tiles) in enumerate(tilings.items(), start=1):
        ax.text(0, 0.28 - row, title, va="bottom")
        for number, (start, end) in enumerate(tiles):
            i = max(s for s in range(len(slice_sizes)) if bounds[s] <= start)
            ax.add_patch(Rectangle((start, -0.3 - row), end - start, 0.55, fc=WAY_COLORS[i], ec="white"))
            if end > bounds[i + 1]:
                ax.add_patch(Rectangle((bounds[i + 1], -0.3 - row), end - bounds[i + 1], 0.55,
                                       fc=WAY_COLORS[i], ec="white", hatch="////"))
            ax.text((start + min(end, bounds[i + 1])) / 2, -0.02 - row, str(number), ha="center",
                    va="center", color="white")
    for bound in bounds:
        ax.plot([bound] * 2, [-0.4 - len(tilings), 0.55], color=INK, lw=1)
    finish(ax, bounds[-1], bottom=-0.5 - len(tilings), top=0.6)


def draw_layout(rows: dict[str, Sequence[str]], colors: dict[str, str]) -> None:
    """Rows of labelled places, one above the other; a label's first letter chooses its colour."""
    _, ax = plt.subplots(figsize=(6.4, 0.4 + 0.65 * len(rows)))
    for y, (title, labels) in enumerate(rows.items()):
        ax.text(-0.15, -y - 0.05, title, ha="right", va="center")
        for place, label in enumerate(labels):
            color = colors.get(label[:1], "#EDEDED")
            ax.add_patch(Rectangle((place, -y - 0.4), 0.94, 0.75, fc=color, lw=0))
            ax.text(place + 0.47, -y - 0.03, label, ha="center", va="center",
                    color="white" if color in (*DARK, *WAY_COLORS) else INK)
    for place in range(len(labels)):
        ax.text(place + 0.47, 0.42, str(place), ha="center", va="bottom", fontsize=9)
    finish(ax, len(labels), bottom=-len(rows) + 0.45, top=0.85, left=-1.9)
