"""Checkers for the exercises of *Cannot reproduce*."""

import random
from collections.abc import Callable

from book import detective

BOTH, NO_DRAFT, NO_GRAPH = (True, True), (False, True), (True, False)
MACHINES = [[BOTH], [NO_DRAFT], [NO_DRAFT, BOTH], [NO_GRAPH, BOTH], [BOTH, NO_DRAFT, BOTH]]
BATCHES = [[0, 1, 2, 3], [3, 3, 1], [-1, 2, -1, 0], [1] * 8]


def check_cold(server: Callable, draft_kernel: Callable[[], object]) -> None:
    """*Cannot reproduce*: servers that start in every order of events, and replay what is right."""
    for life in MACHINES:
        kernel, before = draft_kernel(), []
        for speculate, graphs in life:
            given = f"speculation {speculate}, graphs {graphs}" + (
                f", in a process that has started {' and '.join(before)}" if before else ", in a new process")
            try:
                started = server(kernel, speculate, graphs)
            except RuntimeError as refused:
                raise AssertionError(f"{given}: dies: {refused}") from None
            for slots in BATCHES:
                got, wanted = started.serve(slots), detective.expected(slots)
                assert got == wanted, f"{given}: slots {slots} gave {got}, expected {wanted}"
            captured = getattr(started.captured, "graph", started.captured) is not None  # or the graph itself
            assert captured == graphs, (f"{given}: the outputs are right, and there is "
                                        f"{'a graph' if captured else 'no graph: each step runs eagerly'}")
            assert kernel.cache or not speculate, (
                f"{given}: the outputs are right, but nobody has measured the kernel for drafts: its tuner "
                "has made no choice")
            before.append(f"({speculate}, {graphs})")
    print("passed")


def check_refused(refused: Callable[[list[str]], list[int]]) -> None:
    """*Cannot reproduce*: which captures of a log are refused."""
    rng = random.Random(308)
    logs = [["capture shrink 8"], ["eager shrink 8", "capture shrink 8"],
            ["capture shrink 8", "capture shrink 8"], ["eager shrink 4", "capture shrink 8"],
            ["eager expand 8", "capture shrink 8"], ["eager shrink 8", "exit", "capture shrink 8"],
            ["capture shrink 8", "eager shrink 8", "capture shrink 8"], []]
    for _ in range(60):
        events = [f"{rng.choice(('eager', 'capture', 'capture'))} {kernel} {rng.choice((4, 8))}"
                  for kernel in rng.choices(("shrink", "expand"), k=rng.randint(1, 9))]
        logs.append([event if rng.random() < 0.85 else "exit" for event in events])
    for events in logs:
        wanted = [i for i, event in enumerate(events) if event.startswith("capture")
                  and event.replace("capture", "eager") not in since_exit(events[:i])]
        found = refused(list(events))
        assert list(found) == wanted, f"events {events}: expected {wanted}, got {found}"
    print("passed")


def since_exit(events: list[str]) -> list[str]:
    """What the last process did."""
    exits = [i for i, event in enumerate(events) if event == "exit"]
    return events[exits[-1] + 1:] if exits else events
