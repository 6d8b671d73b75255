"""How fast it goes: curves side by side, ratios to the peers, and times over the base layer's."""

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from benchmarks import table
from book.figures.style import INK, NONE_COLOR, WAY_COLORS, label_logarithmic

PEER_COLORS = dict(zip(
    ("sglang_triton", "sglang_csgmv", "sglang_triton_v2", "vllm", "gather_bmm"), WAY_COLORS))
LOSS = "#D55E00"


def draw_panels(panels: dict[str, dict[str, dict[int, float]]], xlabel: str, ring: bool = True) -> None:
    """Panels side by side, each with the same named curves over powers of two, in microseconds. With
    `ring` the least point of each curve is ringed."""
    _, axes = plt.subplots(1, len(panels), figsize=(6.4, 3.2), squeeze=False)
    for ax, (title, curves) in zip(axes[0], panels.items()):
        for i, (name, curve) in enumerate(curves.items()):
            ax.plot(list(curve), list(curve.values()), "o-", ms=4, lw=1.8, color=WAY_COLORS[i], label=name)
            best = min(curve, key=curve.get)
            if ring:
                ax.plot(best, curve[best], "o", ms=10, mfc="none", mec=WAY_COLORS[i], mew=1.6)
        ticks = sorted({x for curve in curves.values() for x in curve})
        ax.set_xscale("log", base=2)
        ax.set_xticks(ticks, [str(x) for x in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set(xlabel=xlabel, ylim=(0, None))
        ax.set_title(title, loc="left")
    axes[0, 0].set_ylabel("microseconds")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    axes[0, 0].figure.legend(handles, labels, ncols=len(labels), loc="upper left", frameon=False,
                             fontsize=9, handlelength=1.4, columnspacing=1)
    plt.tight_layout(rect=(0, 0, 1, 0.93))


def draw_ratios(cases: list[dict]) -> None:
    """A mark for each case: the time of its fastest peer over ours, and the peer as a colour. Cases
    are grouped by projection, from few tokens to many. Below 1 we lose: shaded, and framed."""
    _, ax = plt.subplots(figsize=(6.4, 3.6))
    names, left, centres = list(dict.fromkeys(case["projection"] for case in cases)), 0, []
    for name in names:
        group = sorted((case for case in cases if case["projection"] == name),
                       key=lambda case: (case["tokens"], case.get("adapters", 0), case["rank"]))
        for place, case in enumerate(group):
            peer, ratio = table.best_peer(case)[0], table.ratio(case)
            ax.plot(left + place, ratio, "o", ms=7, color=PEER_COLORS[peer], mew=1.8,
                    mec=LOSS if ratio < 1 else "none")
        centres.append(left + (len(group) - 1) / 2)
        left += len(group) + 2
        if name != names[-1]:
            ax.axvline(left - 1.5, color=NONE_COLOR, lw=1)
    label_logarithmic(ax)
    low, high = ax.get_ylim()
    ax.yaxis.set_major_locator(plt.FixedLocator([0.5, 0.75, 0.9, 1, 1.2, 1.5, 2, 3, 4, 6, 8, 12, 16]))
    ax.axhspan(0.01, 1, color=LOSS, alpha=0.1, lw=0)
    ax.axhline(1, color=INK, lw=1.2, ls="--")
    ax.set(ylim=(min(low, 0.85), high), xlim=(-1.5, left - 1.5),
           ylabel="fastest peer / ours", xlabel="cases, from few tokens to many in each projection")
    ax.set_xticks(centres, names)
    ax.tick_params(axis="x", length=0)
    best = {table.best_peer(case)[0] for case in cases}
    handles = [Line2D([], [], marker="o", ls="none", ms=7, color=color, label=peer)
               for peer, color in PEER_COLORS.items() if peer in best]
    ax.legend(handles=handles, ncols=5, loc="lower left", bbox_to_anchor=(-0.13, 1), frameon=False,
              fontsize=9, handlelength=0.6, handletextpad=0.3, columnspacing=0.9)
    plt.tight_layout()


def draw_over_base(rows: dict[str, dict[str, float]]) -> None:
    """For each batch the time of a layer with LoRA, by several ways, over the base layer's alone.

    Ways of our own begin with "ours"; the others are peers, or "floor".
    """
    _, ax = plt.subplots(figsize=(6.4, 1.0 + 0.42 * len(rows)))
    ours = {}
    for y, (batch, ways) in enumerate(rows.items()):
        ax.plot([min(ways.values()), max(ways.values())], [y, y], color=NONE_COLOR, lw=1, zorder=0)
        for way, ratio in ways.items():
            if way.startswith("ours"):
                filled = ours.setdefault(way, not ours)
                style = {"marker": "D", "ms": 8, "mec": INK, "mew": 1.6, "mfc": INK if filled else "white"}
            elif way == "floor":
                style = {"marker": "|", "ms": 14, "mec": INK, "mew": 1.8}
            else:
                style = {"marker": "o", "ms": 7, "mec": "none", "mfc": PEER_COLORS[way]}
            ax.plot(ratio, y, ls="none", label=way if y == 0 else None, **style)
    ax.axvline(1, color=INK, lw=1.2, ls="--")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(plt.FixedLocator([0.8, 1, 1.25, 1.5, 2, 3, 4, 6, 8]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_ylim(len(rows) - 0.5, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("time of the four layers / the base layers alone")
    ax.legend(ncols=4, loc="lower left", bbox_to_anchor=(-0.35, 1), frameon=False, fontsize=9,
              handlelength=1, columnspacing=1)
    plt.tight_layout()
