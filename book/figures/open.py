"""Which experiment makes which broken server right."""

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from book.figures.style import COLORS, finish


def draw_signatures(rows: dict[str, dict[str, str]]) -> None:
    """A row for each suspect: in words what it shows as it is, and then a disc for each experiment after
    which it still does, and a ring for each that makes it right."""
    symptom, *experiments = next(iter(rows.values()))
    _, ax = plt.subplots(figsize=(6.4, 1.25 + 0.29 * len(rows)))
    for y, (name, said) in enumerate(rows.items()):
        if y % 2 == 0:
            ax.add_patch(Rectangle((-0.5, -y - 0.5), len(experiments), 1, fc="#F1F1F1", lw=0))
        ax.text(-2.6, -y, name, ha="left", va="center")
        ax.text(-0.65, -y, said[symptom], ha="right", va="center", fontsize=9.5)
        for x, experiment in enumerate(experiments):
            right = said[experiment] == "right"
            ax.plot(x, -y, "o", ms=10, mew=1.4 if right else 0, mec="#009E73",
                    mfc="white" if right else COLORS[5])
    for x, experiment in enumerate(experiments):
        ax.text(x, 0.7, experiment.replace(", ", "\n").replace(" ", "\n"), ha="center", va="bottom",
                fontsize=9.5, linespacing=1.05)
    ax.text(-0.65, 0.7, symptom.replace(" ", "\n", 1), ha="right", va="bottom", fontsize=9.5)
    finish(ax, len(experiments) - 1, bottom=-len(rows) + 0.4, top=2.6, left=-2.7)
    ax.set_xlim(-2.7, len(experiments) - 0.45)
