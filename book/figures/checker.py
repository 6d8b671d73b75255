"""What sees a call of PyTorch's, and what catches a broken rule."""

from collections import Counter
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from book.figures.style import COLORS, INK, WAY_COLORS, finish

if TYPE_CHECKING:
    from book.cases import Case


def draw_levels(seen: dict[str, dict[str, list[str]]]) -> None:
    """A column for each call, and a row for each level that it passes on its way down, with the names
    that the level saw. Pale where it saw nothing."""
    levels = list(next(iter(seen.values())))
    heights = [max(1, *(len(names[level]) for names in seen.values())) for level in levels]
    _, ax = plt.subplots(figsize=(6.4, 0.75 + 0.2 * sum(heights) + 0.25 * len(levels)))
    top = 0.0
    for row, (level, height) in enumerate(zip(levels, heights)):
        bottom = top - height - 0.5
        ax.text(-0.06, (top + bottom) / 2, level.replace(" ", "\n"), ha="right", va="center", fontsize=9)
        for x, names in enumerate(seen.values()):
            color = WAY_COLORS[row] if names[level] else "#EDEDED"
            ax.add_patch(Rectangle((x, bottom), 0.94, height + 0.5, fc=color, lw=0))
            long = max(map(len, names[level]), default=0) > 16
            ax.text(x + 0.47, (top + bottom) / 2, "\n".join(names[level]), ha="center", va="center",
                    fontsize=8 if long else 9, color="white", linespacing=1.15)
            if row and names[level]:
                ax.annotate("", (x + 0.47, top), (x + 0.47, top + 0.7), fontsize=9,
                            arrowprops={"arrowstyle": "->", "color": INK})
        top = bottom - 0.7
    for x, call in enumerate(seen):
        ax.text(x + 0.47, 0.3, call, ha="center", va="bottom", fontsize=9, family="monospace")
    finish(ax, len(seen) - 0.3, bottom=top + 0.5, top=1.4, left=-0.5)


def draw_catches(rows: "list[tuple[Case, dict[str, str]]]") -> None:
    """A row for each case, a column for each tool: filled where the tool names the rule, half filled
    where it only fails, a thin ring where it sees nothing."""
    tools = list(rows[0][1])
    counts = {tool: Counter(said[tool] for _, said in rows) for tool in tools}
    _, ax = plt.subplots(figsize=(6.4, 0.9 + 0.21 * len(rows)))
    for y, (case, said) in enumerate(rows):
        if y % 2 == 0:
            ax.add_patch(Rectangle((-0.5, -y - 0.5), len(tools), 1, fc="#F1F1F1", lw=0))
        ax.text(-1.15, -y, case.name, ha="right", va="center", fontsize=9)
        ax.text(-0.65, -y, case.rule, ha="right", va="center", fontsize=9)
        for x, tool in enumerate(tools):
            style = {"named": "full", "caught": "left"}.get(said[tool], "none")
            ax.plot(x, -y, "o", ms=8.5, fillstyle=style, mew=1.0 if said[tool] != "-" else 0.4,
                    color=COLORS[0], mec=COLORS[0] if said[tool] != "-" else "#999999")
    for x, tool in enumerate(tools):
        said = counts[tool]
        ax.text(x, 0.75, tool, ha="center", va="bottom", fontsize=9)
        ax.text(x, -len(rows) - 0.1, f"{said['named']} + {said['caught']}", ha="center", va="center",
                fontsize=9)
    ax.text(-0.65, -len(rows) - 0.1, "named + caught", ha="right", va="center", fontsize=9)
    finish(ax, len(tools) - 0.5, bottom=-len(rows) - 0.7, top=1.7, left=-len(tools) * 1.05)
