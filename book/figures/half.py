"""Which version of an adapter each layer used, over many loads."""

import matplotlib.pyplot as plt
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle

from book.figures.style import NONE_COLOR, color_of


def draw_loads(panels: dict[tuple[str, str], list[list[int]]], old: int, new: int) -> None:
    """(row, column) -> what the layers gave after each load. A load is a thin column of layers, the
    first layer on top; loads are sorted, so that an area is a rate."""
    rows, columns = (list(dict.fromkeys(names)) for names in zip(*panels))
    _, axes = plt.subplots(len(rows), len(columns), figsize=(6.4, 1.9 * len(rows) + 0.4),
                           squeeze=False)
    colors = [NONE_COLOR, color_of(0), color_of(5)]
    for (row, column), loads in panels.items():
        ax = axes[rows.index(row), columns.index(column)]
        parts = [sum(set(load) == {value} for load in loads) for value in (new, old)]
        codes = [[{old: 0, new: 1}.get(value, 2) for value in load]
                 for load in sorted(loads, key=lambda load: (load.count(new), load), reverse=True)]
        ax.imshow(list(zip(*codes)), cmap=ListedColormap(colors), vmin=0, vmax=2, aspect="auto",
                  interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.spines[["left", "bottom"]].set_visible(False)
        ax.set_xlabel(f"{len(loads) - parts[0]} wrong,\n{len(loads) - sum(parts)} mixed", fontsize=9)
        if row == rows[0]:
            ax.set_title(column, fontsize=10)
        if column == columns[0]:
            ax.set_ylabel(row)
    handles = [Rectangle((0, 0), 1, 1, color=color) for color in (colors[1], colors[0], colors[2])]
    plt.tight_layout(rect=(0, 0, 1, 0.93))
    plt.gcf().legend(handles, ["new version", "old version", "half of each"], ncols=3, frameon=False,
                     loc="upper left", fontsize=9, handlelength=1, columnspacing=1)
