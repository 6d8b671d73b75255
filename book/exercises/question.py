"""Checkers for the exercises of *Every kernel is fast*."""

from collections.abc import Callable

import torch

from book import detective
from lorakit import NO_ADAPTER, runtime, slots_to_device
from lorakit.capture import attempt, lint, probe

NOBODY, BATCHES = [NO_ADAPTER] * 4, [[0, 1, 2, 3], [NO_ADAPTER] * 4, [2, -1, -1, 0], [3] * 4]


def layers(device: torch.device) -> list[tuple]:
    """One layer whose base model gives zeros, so that an output can be read."""
    base = torch.zeros(detective.HIDDEN, detective.OUT, dtype=detective.DTYPE, device=device)
    return [(base, detective.weights(4, device))]


def check_question(server: Callable) -> None:
    """*Every kernel is fast*: a step that waits for nobody, and one graph for all batches.

    Without a GPU `lint` stands in for the clock and the graph.
    """
    device = runtime.device()
    x = detective.tokens(4, device)
    for batches in ([NOBODY, *BATCHES], [*BATCHES, NOBODY]):  # an answer of the first batch may not stay
        started = server(layers(device))
        for slots in batches:  # at last nobody has an adapter, as in a dummy batch
            got, wanted = detective.read(started.serve(x, slots)), detective.expected(slots)
            assert got == wanted, f"slots {slots} gave {got}, expected {wanted}, after a start with {batches[0]}"
    static = slots_to_device(NOBODY, 4, device)
    if device.type == "cuda":
        on_gpu(started, x, static)
    else:
        on_cpu(started, x, static)
    print("passed")


def on_gpu(started: object, x: torch.Tensor, static: torch.Tensor) -> None:
    found = probe(started.step, x, static)
    assert not found.blocks_host, (f"right outputs, but the host waits: {found.host_ms:.1f} ms behind "
                                   f"{found.queued_ms:.0f} ms of queued work, at {found.blocking}")
    assert found.capturable, f"right outputs, but a capture refuses the step ({found.rule}), at {found.line}"
    graph = attempt(lambda: started.step(x, static))
    for slots in BATCHES:
        static.copy_(slots_to_device(slots, 4, static.device))
        graph.graph.replay()
        got, wanted = detective.read(graph.result), detective.expected(slots)
        assert got == wanted, (f"captured with {NOBODY}, a replay with slots {slots} gave {got}, expected "
                               f"{wanted}: the answer is frozen (S4)")


def on_cpu(started: object, x: torch.Tensor, static: torch.Tensor) -> None:
    def other() -> tuple:
        started.serve(x, BATCHES[0])  # as a server does before each step
        return x, slots_to_device(BATCHES[0], 4, "cpu")

    report = lint(started.step, x, static, other=other)
    for finding in report.breaks:
        raise AssertionError(f"right outputs, but a capture refuses the step ({finding.rule}), at "
                             f"{finding.line}")
    for finding in report.frozen:
        raise AssertionError(f"right outputs, but with {NOBODY} and {BATCHES[0]} the step does two different "
                             f"things, and a graph would keep one of them ({finding.rule}), at {finding.line}")


LINES = {
    "A": "rows = len(slots)",
    "B": "alone = slots.shape[0] == 1",
    "C": "if (slots >= 0).any(): rows = 1",
    "D": "place = torch.where(slots >= 0, slots, 0)",
    "E": "busy = max(slots)",
    "F": "log = f'batch of {slots.numel()} slots'",
    "G": "mine = slots[slots >= 0]",
    "H": "first, *rest = slots.unbind()",
}


def check_asks(letters: str) -> None:
    """*Every kernel is fast*: which of LINES make the host wait. Asks `lint`."""
    given = set(letters.upper().replace(",", " ").split()) if " " in letters or "," in letters else set(
        letters.upper())
    assert given <= set(LINES), f"{sorted(given - set(LINES))}: the lines are {', '.join(LINES)}"
    for letter, line in LINES.items():
        asks = asks_device(line)
        assert (letter in given) == asks, (
            f"{letter}: {line!r} {'asks' if asks else 'does not ask'} the device: "
            + ("a value or a size comes from there" if asks else "the host knows all that it needs"))
    print("passed")


def asks_device(line: str) -> bool:
    """True if a capture would refuse the line."""
    def run(slots: torch.Tensor) -> None:
        exec(line, {"slots": slots, "torch": torch})
        slots + 0
    return bool(lint(run, torch.tensor([0, 1, -1, 2], dtype=torch.int32)).breaks)
