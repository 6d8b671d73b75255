"""Systems beside each other: what each of them chose."""

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from book.figures.style import INK, NONE_COLOR, WAY_COLORS


def draw_choices(choices: dict[str, list[str]], questions: list[str]) -> None:
    """A row for each system, a column for each question. In a column one colour is one choice.

    The choice that most systems made comes first, in one colour for all columns; one that a single
    system made is grey.
    """
    _, ax = plt.subplots(figsize=(6.4, 0.5 + 0.4 * len(choices)))
    names, rows = list(choices), list(choices.values())
    for column, question in enumerate(questions):
        made = [row[column] for row in rows]
        order = sorted(dict.fromkeys(made), key=made.count, reverse=True)
        ax.text(column + 0.5, -0.15, question, ha="center", va="bottom", fontsize=9.5, weight="bold")
        for y, choice in enumerate(made):
            shared = made.count(choice) > 1
            color = WAY_COLORS[order.index(choice)] if shared else NONE_COLOR
            ax.add_patch(Rectangle((column + 0.03, y + 0.06), 0.94, 0.88, color=color, lw=0,
                                   alpha=0.55 if shared else 0.35))
            ax.text(column + 0.5, y + 0.5, choice, ha="center", va="center", fontsize=9.5,
                    color=INK)
    for y, name in enumerate(names):
        ax.text(-0.08, y + 0.5, name, ha="right", va="center", fontsize=10.5)
    ax.set(xlim=(-1.62, len(questions)), ylim=(len(choices), -0.8))
    ax.axis("off")
    plt.tight_layout(pad=0.3)
