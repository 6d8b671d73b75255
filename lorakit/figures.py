"""The book's figures, drawn from the very tensors and events that a cell holds.

One colour an adapter throughout the book (six of Okabe and Ito's, which colour-blind readers tell
apart, and two more of middle brightness), grey for tokens without one. The page inverts figures in
dark mode, so a figure is drawn once.
"""

import itertools
from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from lorakit.timeline import WAITS, Event, graphs

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


def draw_parts(rows: dict[str, dict[str, float]], unit: str) -> None:
    """A bar for each row, cut into named parts, which have the same names in every row."""
    _, ax = plt.subplots(figsize=(6.4, 0.6 + 0.55 * len(rows)))
    left = [0.0] * len(rows)
    for i, part in enumerate(next(iter(rows.values()))):
        widths = [parts[part] for parts in rows.values()]
        ax.barh(list(rows), widths, left=left, height=0.6, color=WAY_COLORS[i], label=part)
        left = [start + width for start, width in zip(left, widths)]
    ax.invert_yaxis()
    ax.set_xlabel(unit)
    ax.tick_params(axis="y", length=0)
    ax.legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=9,
              handlelength=1, columnspacing=1)
    plt.tight_layout()


def draw_ways(times_us: dict[str, dict[str, float]], floors_us: dict[str, float],
              floor_name: str = "byte floor") -> None:
    """For each batch a group of bars, one a way to compute it, and a floor as a line."""
    _, ax = plt.subplots(figsize=(6.4, 3.4))
    ways = list(next(iter(times_us.values())))
    width = 0.8 / len(ways)
    for group, (batch, times) in enumerate(times_us.items()):
        for i, way in enumerate(ways):
            bar = ax.bar(group - 0.4 + (i + 0.5) * width, times[way], 0.9 * width,
                         color=WAY_COLORS[i], label=way if group == 0 else None)
            ax.bar_label(bar, fmt=lambda us: f"{us:.1f}" if us < 10 else f"{us:.0f}", fontsize=9)
        ax.plot([group - 0.42, group + 0.42], [floors_us[batch]] * 2, color=INK, lw=1.6, ls="--",
                label=floor_name if group == 0 else None)
    ax.set(ylabel="microseconds")
    label_logarithmic(ax)
    ax.set_xticks(range(len(times_us)), [name.replace(", ", "\n") for name in times_us])
    ax.tick_params(axis="x", length=0)
    ax.legend(ncols=len(ways) + 1, loc="lower left", bbox_to_anchor=(-0.1, 1), frameon=False,
              fontsize=9, handlelength=1.2, columnspacing=0.9)
    plt.tight_layout()


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


LEAST_WIDTH_US = 3.0  # of a bar in draw_launches, to be seen


def draw_launches(panels: dict[str, list[Event]]) -> None:
    """What the host launched and what the GPU ran, each panel from its own first event."""
    _, axes = plt.subplots(len(panels), 1, figsize=(6.4, 1.8 * len(panels)), sharex=True,
                           squeeze=False)
    for ax, (title, events) in zip(axes[:, 0], panels.items()):
        calls = {event.launch for event in events if event.lane == "gpu"}
        shown = [event for event in events if event.launch in calls]
        origin = min(event.start_us for event in shown)
        for event in shown:
            width = max(event.end_us - event.start_us, LEAST_WIDTH_US)
            ax.add_patch(Rectangle((event.start_us - origin, event.lane == "host"), width, 0.7, lw=0,
                                   color="#555555" if event.lane == "host" else "#0072B2"))
        ax.set(ylim=(-0.2, 1.9), yticks=[0.35, 1.35], yticklabels=["GPU", "host"])
        ax.autoscale(axis="x")
        ax.tick_params(axis="y", length=0)
        ax.set_title(title, loc="left")
    axes[-1, 0].set_xlabel("microseconds")
    plt.tight_layout()


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


def draw_curves(curves: dict[str, dict[int, float]], chosen: int, xlabel: str, ylabel: str) -> None:
    """A curve for each name over powers of two; its least point ringed, the chosen one a line."""
    _, ax = plt.subplots(figsize=(6.4, 3.3))
    for i, (name, curve) in enumerate(curves.items()):
        ax.plot(list(curve), list(curve.values()), "o-", ms=4, lw=1.8, color=WAY_COLORS[i], label=name)
        best = min(curve, key=curve.get)
        ax.plot(best, curve[best], "o", ms=11, mfc="none", mec=WAY_COLORS[i], mew=1.8)
    ax.axvline(chosen, color=INK, lw=1.2, ls="--")
    ticks = sorted({x for curve in curves.values() for x in curve})
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [str(x) for x in ticks])
    ax.set(xlabel=xlabel, ylabel=ylabel)
    label_logarithmic(ax)
    ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=len(curves), frameon=False,
              fontsize=9, handlelength=1.4, columnspacing=1)
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
                    color="white" if label[:1] in colors else INK)
    for place in range(len(labels)):
        ax.text(place + 0.47, 0.42, str(place), ha="center", va="bottom", fontsize=9)
    finish(ax, len(labels), bottom=-len(rows) + 0.45, top=0.85, left=-1.9)


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
