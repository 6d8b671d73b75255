"""Checkers for the exercises of *The adapter that was never there*."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch

from lorakit import NO_ADAPTER
from lorakit.capture.recorder import Recorder
from book import detective

SHORT, MAX_LORAS = 8, 4  # the longest batch that has a graph
NOBODY = [NO_ADAPTER] * 4


def check_branch(make_server: Callable[[], object]) -> None:
    """*The adapter that was never there*: a server whose graphs serve adapters and the base model."""
    rng, server = random.Random(302), make_server()
    step, stepped = server.step, []

    def watched(*args: object) -> object:
        stepped.append(args)
        return step(*args)

    server.step = watched
    batches = [[0, 1, 2, 3], NOBODY, [2], [NO_ADAPTER, 3, NO_ADAPTER, 1], NOBODY, [1] * SHORT, [NO_ADAPTER],
               [0, 1, 2, 3] * 3, NOBODY, [3, 0]]
    batches += [rng.choices(range(-1, MAX_LORAS), k=rng.randint(1, SHORT)) for _ in range(12)]
    for number, slots in enumerate(batches):
        stepped.clear()
        got, right = server.serve(list(slots)), detective.expected(slots)
        given = f"batch {number}, slots {slots}"
        assert not stepped or len(slots) > SHORT, (
            f"{given}: served, but the step ran in Python again, eagerly or in a new capture")
        assert got == right or any(got), f"{given}: the adapters are ignored, got {got}, not {right}"
        assert got == right or any(right), f"{given}: base requests got adapters of another batch, {got}"
        assert got == right, f"{given}: got {got}, not {right}"
    print("passed")


@dataclass
class Rows:
    """A batch of four rows: each one's adapter, or NO_ADAPTER, as the host and the device know it."""

    host: list[int]
    slots: torch.Tensor  # (4,), static: rewritten in place before each replay
    some: torch.Tensor  # (1,), static: 1 if any row has an adapter, else 0

    def write(self, host: list[int]) -> None:
        self.host = host
        self.slots.copy_(torch.tensor(host))
        self.some.fill_(max(host) != NO_ADAPTER)


def check_branches(answers: dict[Callable[[Rows], torch.Tensor], str]) -> None:
    """*The adapter that was never there*: captured with a batch of base requests, is a step safe or frozen?

    Each step is captured by the recorder for such a batch, and replayed for others.
    """
    others = ([0, 1, 2, 0], [NO_ADAPTER, 1, NO_ADAPTER, NO_ADAPTER], NOBODY, [2] * 4)
    for step, answer in answers.items():
        assert answer in ("safe", "frozen"), f"{step.__name__}: say 'safe' or 'frozen', not {answer!r}"
        batch = Rows(NOBODY, torch.zeros(4, dtype=torch.int64), torch.zeros(1))
        batch.write(NOBODY)
        graph = Recorder()
        with graph.capture():
            replayed = step(batch)
        wrong = None
        for host in others:
            batch.write(host)
            eager = step(batch).tolist()
            graph.replay()
            if replayed.tolist() != eager:
                wrong = f"for rows {host} a replay gives {replayed.tolist()}, and an eager call {eager}"
                break
        assert (answer == "frozen") == (wrong is not None), (
            f"{step.__name__} is not {answer}: {wrong or 'its replays are right for every batch'}")
    assert len(answers) == 5, f"there are five steps, and these are {len(answers)} answers"
    print("passed")
