"""*Every kernel is fast*: an eager step in two lanes, with the waits of the host."""

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from lorakit.timeline import WAITS, Event

LAUNCH, WAIT, WORK = "#555555", "#D55E00", "#0072B2"


def draw_waits(panels: dict[str, list[Event]], length_us: float) -> None:
    """The host's calls and the GPU's work from the middle of each recording on, on one scale of time."""
    _, axes = plt.subplots(len(panels), 1, figsize=(6.4, 1.7 * len(panels)), sharex=True, squeeze=False)
    for ax, (title, events) in zip(axes[:, 0], panels.items()):
        work = [event for event in events if event.lane == "gpu"]
        origin = work[len(work) // 2].start_us
        for event in events:
            if event.end_us < origin or event.start_us > origin + length_us:
                continue
            on_host = event.lane == "host"
            color = WORK if not on_host else WAIT if event.name in WAITS else LAUNCH
            width = max(event.end_us - event.start_us, length_us / 400)
            ax.add_patch(Rectangle((event.start_us - origin, on_host), width, 0.7, color=color, lw=0))
        ax.set(xlim=(0, length_us), ylim=(-0.2, 1.8), yticks=[0.35, 1.35], yticklabels=["GPU", "host"])
        ax.tick_params(axis="y", length=0)
        ax.set_title(title, loc="left")
    axes[-1, 0].set_xlabel("microseconds")
    handles = [Rectangle((0, 0), 1, 1, color=color) for color in (LAUNCH, WAIT, WORK)]
    axes[0, 0].legend(handles, ["calls", "waits", "work"], ncols=3, loc="lower right", frameon=False,
                      bbox_to_anchor=(1.0, 1.0), fontsize=9, handlelength=1, columnspacing=1)
    plt.tight_layout()
