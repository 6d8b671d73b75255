"""Times and bytes: bars, curves, and timelines of host and GPU."""

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from book.figures.style import NONE_COLOR, WAY_COLORS, INK, label_logarithmic
from lorakit.timeline import WAITS, Event, graphs


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


def draw_curves(curves: dict[str, dict[int, float]], chosen: int | None, xlabel: str,
                ylabel: str, ticks: list[int] | None = None) -> None:
    """A curve for each name over powers of two. Where one x was chosen it is a line, and the least
    point of each curve is ringed. `ticks` are the x that get a number, else all of them."""
    _, ax = plt.subplots(figsize=(6.4, 3.3))
    for i, (name, curve) in enumerate(curves.items()):
        ax.plot(list(curve), list(curve.values()), "o-", ms=4, lw=1.8, color=WAY_COLORS[i], label=name)
        if chosen is not None:
            best = min(curve, key=curve.get)
            ax.plot(best, curve[best], "o", ms=11, mfc="none", mec=WAY_COLORS[i], mew=1.8)
    if chosen is not None:
        ax.axvline(chosen, color=INK, lw=1.2, ls="--")
    ticks = ticks or sorted({x for curve in curves.values() for x in curve})
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [str(x) for x in ticks])
    ax.set(xlabel=xlabel, ylabel=ylabel)
    label_logarithmic(ax)
    ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=len(curves), frameon=False,
              fontsize=9, handlelength=1.4, columnspacing=1)
    plt.tight_layout()


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
    """Host and GPU lanes of several runs on one scale of time: at least `steps` graphs and the gaps after them."""
    _, axes = plt.subplots(len(panels), 1, figsize=(6.4, 1.9 * len(panels)), sharex=True,
                           squeeze=False)
    axes, replays = axes[:, 0], [graphs(events) for events in panels.values()]
    length = max(panel[first_step + steps][1] - panel[first_step][1] for panel in replays)
    for ax, replays, (title, events) in zip(axes, replays, panels.items()):
        origin = replays[first_step][1]
        end = origin + length
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
        ax.set(xlim=(0, length / 1e3), ylim=(-0.35, 1.8), yticks=[0.35, 1.35],
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


def draw_streams(panels: dict[str, list[str]]) -> None:
    """Calls such as 'side waits origin' and 'side runs', left to right, a lane for each stream.

    A box is work, pale where the capture, which began on the first stream, has not come; an arrow
    is a wait and points to who waits.
    """
    _, axes = plt.subplots(len(panels), 1, figsize=(6.4, 1.35 * len(panels)), squeeze=False)
    length = max(map(len, panels.values()))
    for ax, (title, calls) in zip(axes[:, 0], panels.items()):
        words = [call.split() for call in calls]
        lanes = list(dict.fromkeys(name for stream, _, *other in words for name in (stream, *other)))
        reached = {lanes[0]}
        for step, (stream, verb, *other) in enumerate(words):
            y = -lanes.index(stream)
            if verb == "runs":
                color = WAY_COLORS[0] if stream in reached else "#D5D5D5"
                ax.add_patch(Rectangle((step + 0.1, y - 0.3), 0.8, 0.6, color=color, lw=0))
                continue
            reached |= {stream} if other[0] in reached else set()
            ax.annotate("", (step + 0.5, y), (step + 0.5, -lanes.index(other[0])),
                        arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.8, "shrinkA": 0,
                                    "shrinkB": 0, "mutation_scale": 16})
        for lane in range(len(lanes)):
            ax.plot([0, length], [-lane, -lane], color=NONE_COLOR, lw=1, zorder=0)
        ax.set(xlim=(0, length), ylim=(0.5 - len(lanes), 0.5), xticks=[])
        ax.set_yticks([-lane for lane in range(len(lanes))], lanes)
        ax.tick_params(axis="y", length=0)
        ax.spines[["left", "bottom"]].set_visible(False)
        ax.set_title(title, loc="left")
    plt.tight_layout()
