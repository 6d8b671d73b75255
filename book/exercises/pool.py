"""Checkers for the exercises of *Right text, wrong numbers*."""

import random
from collections.abc import Callable
from unittest import mock

import torch

from book import detective
from lorakit import runtime, slots_to_device, timing

KNOBS = [{}, {"limit": 4}, {"limit": 12, "requests": 1}]  # the room: 8, 8 and 4
SIZE = 48  # bytes of the pools that the detector is tried on

Plan = list[tuple]  # ("replay", graph) or ("read", graph, (first byte, end))
Writes = dict[str, list[tuple[int, int]]]


def check_pool(make: Callable[..., object]) -> None:
    """*Right text, wrong numbers*: a server whose outputs are right, however late they are read."""
    rng, device = random.Random(310), runtime.device()
    for knobs in KNOBS:
        server, served, limit = make(**knobs), [], knobs.get("limit", 8)
        for tokens in (limit, 1, limit + 1, limit - 1, limit, 2 * limit):
            prompt = rng.choices(range(4), k=tokens)
            with Replays() as replays:
                outputs = server.serve(slots_to_device(prompt, 4, device))
            served.append((prompt, outputs))
            given = f"{knobs or 'no knobs'}, a prompt of {tokens} tokens"
            least = 2 if tokens <= limit else 1
            assert device.type != "cuda" or replays.count >= least, (
                f"{given}: {replays.count} graphs were replayed, not {least}: both models stay graphs")
        for prompt, outputs in served:
            given, right = f"{knobs or 'no knobs'}, the prompt {prompt}", detective.expected(prompt)
            for name, found, wanted in zip(("text", "log-probabilities"), outputs, (right[-1:], right)):
                assert same(found, wanted), (
                    f"{given}: the {name} are made from {rows(found)}, not from {wanted}, when all "
                    "prompts have been served")
    if device.type == "cuda":
        slots = slots_to_device([0, 1, 2], 4, device)
        ms = timing.host_ms(lambda: server.serve(slots), queued_ms=10.0)
        assert ms < 5.0, f"right values, but the host waits: {ms:.1f} ms behind 10 ms of queued work"
    print("passed")


class Replays:
    """Counts the replays of CUDA graphs inside of a `with` block."""

    def __enter__(self) -> "Replays":
        self.count, replay = 0, torch.cuda.CUDAGraph.replay

        def counted(graph: torch.cuda.CUDAGraph) -> None:
            self.count += 1
            replay(graph)

        self.patch = mock.patch.object(torch.cuda.CUDAGraph, "replay", counted)
        self.patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.patch.stop()


def same(found: torch.Tensor, wanted: list[int]) -> bool:
    right = torch.tensor(wanted, dtype=found.dtype, device=found.device)[:, None]
    return len(found) == len(wanted) and bool((found == right).all())


def rows(found: torch.Tensor) -> list:
    """What a message says of hidden states: one number a row, or 'mixed'."""
    numbers = found.float().cpu().tolist()
    return [round(row[0]) if len(set(row)) == 1 else "mixed" for row in numbers]


def in_memory(plan: Plan, writes: Writes) -> list[int]:
    """The wrong reads, byte by byte: who wrote each byte last?"""
    memory, wrong = [None] * SIZE, []
    for place, (what, name, *span) in enumerate(plan):
        if what == "replay":
            for first, end in writes[name]:
                memory[first:end] = [name] * (end - first)
        elif set(memory[slice(*span[0])]) != {name}:
            wrong.append(place)
    return wrong


def check_wrong_reads(wrong_reads: Callable[[Plan, Writes], list[int]]) -> None:
    """*Right text, wrong numbers*: all reads that find what another graph wrote, and no others."""
    target, draft, low, high = "target", "draft", [(0, 8), (8, 20)], [(8, 16), (16, 28)]
    read, replay = (lambda name, span: ("read", name, span)), (lambda name: ("replay", name))
    cases = [
        ([replay(target), read(target, (0, 8)), replay(draft), read(target, (0, 8))],
         {target: low, draft: low}),  # the page's server
        ([replay(target), replay(draft), read(target, (8, 16))],
         {target: [(8, 16)], draft: [(0, 8), (8, 12)]}),  # a temporary, and another first byte
        ([replay(target), replay(draft), read(target, (0, 8)), read(draft, (8, 16))],
         {target: low, draft: high}),  # neighbours: an end is exclusive
        ([replay(draft), replay(target), read(target, (0, 8)), replay(draft), read(draft, (0, 8))],
         {target: low, draft: low}),  # any order, and each read in time
        ([replay(target), replay(draft), replay(target), read(target, (0, 8)), read(draft, (0, 8))],
         {target: low, draft: low}),  # a new replay makes it right again
    ]
    rng = random.Random(53488)
    for _ in range(60):
        names = ["a", "b", "c"][:rng.randint(2, 3)]
        writes = {name: spans(rng) for name in names}
        plan = [replay(name) for name in names]
        for _ in range(rng.randint(2, 8)):
            name = rng.choice(names)
            plan.append(replay(name) if rng.random() < 0.5 else read(name, rng.choice(writes[name])))
        cases.append((plan, writes))
    for plan, writes in cases:
        found, right = wrong_reads(list(plan), {k: list(v) for k, v in writes.items()}), in_memory(
            plan, writes)
        assert isinstance(found, list), f"wrong_reads gave {found!r}, not a list of indices"
        for place in sorted(set(found) ^ set(right)):
            verdict = "is wrong, and was not found" if place in right else "is right, and was called wrong"
            raise AssertionError(f"place {place} of {plan} {verdict}; the graphs write {writes}")
        assert sorted(found) == right, f"{plan}: a place occurs twice in {found}"
    print("passed")


def spans(rng: random.Random) -> list[tuple[int, int]]:
    """An output and up to two temporaries, somewhere, apart from each other."""
    bounds = sorted(rng.sample(range(0, SIZE, 4), k=2 * rng.randint(1, 3)))
    return list(zip(bounds[::2], bounds[1::2]))
