"""*Cannot reproduce*: what each process did, in order, and where the tuned kernel was first launched."""

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from book.figures.style import INK, NONE_COLOR, finish

REFUSED, TUNED, TAKEN = "#D55E00", "#E69F00", "#8FB8D0"


def draw_lives(machines: dict[str, list[tuple[bool, bool, bool, str]]]) -> None:
    """A row of boxes for each machine. A start is (speculate, graphs, whether the tuner ran, what came of it).

    Each start is a warm-up without drafts, and then a capture or an eager request.
    """
    longest = 2 * max(map(len, machines.values()))
    _, ax = plt.subplots(figsize=(6.4, 0.3 + 0.75 * len(machines)))
    for row, (name, life) in enumerate(machines.items()):
        boxes, seen = [], False
        for speculate, graphs, tuned, came in life:
            what = "capture" if graphs else "request"
            how = "refused" if came == "dies" else "tunes" if tuned else "taken" if graphs else "runs"
            color = REFUSED if came == "dies" else TUNED if tuned else TAKEN
            boxes += [("warm-up\nno draft", NONE_COLOR, False),
                      (f"{what}{', draft' if speculate else ''}\n{how}", color, speculate and not seen)]
            seen |= speculate
        for place, (text, color, first) in enumerate(boxes):
            ax.add_patch(Rectangle((place + 0.05, -row), 0.9, 0.72, fc=color, ec=INK, lw=2.6 * first))
            ax.text(place + 0.5, 0.36 - row, text, ha="center", va="center", fontsize=9,
                    color="white" if color == REFUSED else INK)
        ax.text(-0.1, 0.36 - row, name, ha="right", va="center")
    finish(ax, longest, 0.8 - len(machines), 0.85, left=-0.75)
