"""Checkers for the exercises of *Half an adapter*."""

import random
import time
from collections.abc import Callable

import torch

from book import detective
from lorakit.timing import queue_work

HELD_MS = 20.0  # far longer than the host needs for a load
Program = list[tuple[str, str, str]]


def versions() -> list[tuple[int, list[torch.Tensor]]]:
    """(what it adds, its A and B) of two versions that differ in both matrices."""
    made = []
    for a, b in ((1, 10), (4, 5)):
        (lora_a,), (lora_b,) = detective.adapter(b)
        made.append((a * b, [lora_a * a, lora_b]))
    return made


def check_half(make_server: Callable[[], object]) -> None:
    """*Half an adapter*: a load is whole for the next step, and leaves the steps before it alone."""
    server, both = make_server(), versions()
    assert hasattr(server, "loader"), "the checker holds server.loader, the stream of the copies"
    server.load(both[0][1])
    torch.cuda.synchronize()
    for turn in range(1, 5):
        (old, _), (new, adapter) = both[(turn - 1) % 2], both[turn % 2]
        held = ("the decode stream", "the loader's stream")[turn % 2]
        with torch.cuda.stream(server.loader if turn % 2 else torch.cuda.current_stream()):
            queue_work(HELD_MS)
        before = server.decode().clone()
        start = time.perf_counter()
        server.load(adapter)
        host_ms = (time.perf_counter() - start) * 1e3
        after = server.decode().clone()
        torch.cuda.synchronize()
        given = f"load {turn}, behind {HELD_MS:.0f} ms of work on {held}"
        for step, out, wanted in (("before", before, old), ("after", after, new)):
            found = out[:, 0].float().cpu()
            wrong = [layer for layer, row in enumerate(found.tolist()) if set(row) != {wanted}]
            assert not wrong, (f"{given}: the step {step} it gave {round(found[wrong[0], 0].item())} in "
                               f"{len(wrong)} of {len(found)} layers, expected {wanted}")
        assert host_ms < HELD_MS / 2, (f"{given}: all values are right, and load held the host for "
                                       f"{host_ms:.0f} ms: let the streams wait, not the host")
    print("passed")


def orders(program: Program) -> set[tuple[str, ...]]:
    """Every order in which the GPU may run the work of a program, by trying them all."""
    found, seen, todo = set(), set(), [(0, frozenset(), ())]
    streams = {who for who, _, _ in program} - {"host"}

    def caught_up(stream: str, end: int, done: frozenset) -> bool:
        return all(i in done for i in range(end) if program[i][0] == stream)

    while todo:
        issued, done, order = state = todo.pop()
        if state in seen:
            continue
        seen.add(state)
        if issued == len(program) == len(done):
            found.add(order)
        if issued < len(program):
            who, _, what = program[issued]
            if who != "host":
                todo.append((issued + 1, done, order))
            elif caught_up(what, issued, done):
                todo.append((issued + 1, done | {issued}, order))
        for stream in streams:
            queue = [i for i in range(issued) if program[i][0] == stream and i not in done]
            if queue:
                _, verb, what = program[queue[0]]
                if verb == "runs":
                    todo.append((issued, done | {queue[0]}, (*order, what)))
                elif caught_up(what, queue[0], done):
                    todo.append((issued, done | {queue[0]}, order))
    return found


def some_programs(count: int = 60) -> list[Program]:
    """Programs whose first work is 'write' and whose last is 'read', with waits and work between."""
    rng = random.Random(306)
    found = []
    for _ in range(count):
        middle: Program = []
        for number in range(rng.randint(1, 4)):
            if rng.random() < 0.25:
                middle.append((rng.choice(["loader", "decode", "other"]), "runs", f"work {number}"))
            else:
                who = rng.choice(["loader", "decode", "other", "host"])
                whom = rng.choice([name for name in ("loader", "decode", "other") if name != who])
                middle.append((who, "waits", whom))
        middle.insert(rng.randint(0, len(middle)), ("loader", "runs", "write"))
        found.append([*middle, ("decode", "runs", "read")])
    return found


def check_certain(certain: Callable[[Program, str, str], bool]) -> None:
    """*Half an adapter*: is one piece of work certain to run before another?"""
    w, r = ("loader", "runs", "write"), ("decode", "runs", "read")
    programs = [[w, r], [w, ("decode", "waits", "loader"), r], [("decode", "waits", "loader"), w, r],
                [w, ("loader", "waits", "decode"), r], [w, ("host", "waits", "loader"), r],
                [w, ("other", "waits", "loader"), ("decode", "waits", "other"), r],
                [r, ("loader", "waits", "decode"), w], *some_programs()]
    for program in programs:
        for first, second in (("write", "read"), ("read", "write")):
            says = certain(list(program), first, second)
            against = [order for order in orders(program) if order.index(second) < order.index(first)]
            told = "; ".join(" ".join(entry) for entry in program)
            assert says or against, (f"{told}: {first} is certain to run before {second} in each order "
                                     "that the GPU may choose")
            assert not says or not against, (f"{told}: the GPU may run {', '.join(against[0])}, so "
                                             f"{first} is not certain to run before {second}")
    print("passed")
