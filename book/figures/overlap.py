"""*Overlap*: which work waits for which, and lanes of work drawn from durations."""

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from book.figures.style import INK, WAY_COLORS

WORK_COLORS = dict(zip(("base", "shrink", "expand", "add"), WAY_COLORS))


def draw_dependences(panels: dict[str, dict[str, list[str]]]) -> None:
    """Work from left to right, an arrow from each to what waits for it. Work above work may overlap."""
    depths = {title: depths_of(after) for title, after in panels.items()}
    _, axes = plt.subplots(1, len(panels), figsize=(6.4, 1.8), squeeze=False,
                           width_ratios=[max(depth.values()) + 0.75 for depth in depths.values()])
    for ax, (title, after) in zip(axes[0], panels.items()):
        depth, places = depths[title], {}
        for work, before in after.items():
            row = [other for other in after if depth[other] == depth[work]]
            y = (len(row) - 1) / 2 - row.index(work)
            if len(row) == len(before) == 1:  # beside the one that it waits for
                y = places[before[0]][1]
            places[work] = depth[work] * 1.6, y
        for work, (x, y) in places.items():
            color = WORK_COLORS.get(work, "#EDEDED")
            ax.add_patch(Rectangle((x - 0.5, y - 0.28), 1.0, 0.56, fc=color, lw=0))
            ax.text(x, y, work, ha="center", va="center", fontsize=9,
                    color="white" if work in WORK_COLORS else INK)
            for first in after[work]:
                ax.annotate("", (x - 0.52, y), (places[first][0] + 0.52, places[first][1]),
                            arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.3})
        ax.set(xlim=(-0.6, 1.6 * max(depth.values()) + 0.6), ylim=(-1.0, 1.0))
        ax.axis("off")
        ax.set_title(title, loc="left")
    plt.tight_layout()


def depths_of(after: dict[str, list[str]]) -> dict[str, int]:
    """How many works the longest chain before each work has. Each stands behind what it waits for."""
    depth: dict[str, int] = {}
    for work, before in after.items():
        depth[work] = 1 + max((depth[first] for first in before), default=-1)
    return depth


def draw_arrangements(panels: dict[str, list[tuple[str, str, float, float]]],
                      measured_us: dict[str, float]) -> None:
    """(lane, work, start, end) of each arrangement in microseconds, and what a clock said, dashed."""
    _, axes = plt.subplots(len(panels), 1, figsize=(6.4, 0.7 + 0.95 * len(panels)), sharex=True,
                           squeeze=False)
    for ax, (title, boxes) in zip(axes[:, 0], panels.items()):
        lanes = list(dict.fromkeys(lane for lane, *_ in boxes))
        for lane, work, start, end in boxes:
            ax.add_patch(Rectangle((start, -lanes.index(lane) - 0.36), end - start, 0.72,
                                   fc=WORK_COLORS[work], ec="white", lw=0.4))
        ax.axvline(measured_us[title], color=INK, lw=1.6, ls="--")
        ax.set(ylim=(0.5 - len(lanes), 0.5))
        ax.set_yticks([-i for i in range(len(lanes))], lanes)
        ax.tick_params(axis="y", length=0)
        ax.spines["bottom"].set_visible(ax is axes[-1, 0])
        ax.tick_params(axis="x", length=3 if ax is axes[-1, 0] else 0)
        ax.set_title(title, loc="left")
    furthest = max([*measured_us.values(), *(end for boxes in panels.values() for *_, end in boxes)])
    axes[-1, 0].set(xlim=(0, 1.02 * furthest), xlabel="microseconds")
    works = list(dict.fromkeys(work for boxes in panels.values() for _, work, *_ in boxes))
    handles = [Rectangle((0, 0), 1, 1, color=WORK_COLORS[work]) for work in works]
    handles.append(plt.Line2D([0], [0], color=INK, lw=1.6, ls="--"))
    axes[0, 0].legend(handles, [*works, "measured"], ncols=5, loc="lower right", frameon=False,
                      bbox_to_anchor=(1.0, 1.0), fontsize=9, handlelength=1.2, columnspacing=1)
    plt.tight_layout()
