"""Checkers for the exercises of *Right for one adapter*."""

import random
from collections.abc import Callable, Sequence
from itertools import accumulate, groupby

from book import detective
from lorakit import NO_ADAPTER
from lorakit.timing import host_ms

MAX_TOKENS, MAX_LORAS = 8, 4


def watched(server: object) -> list[str]:
    """A list that gets an entry whenever the server runs its step itself, in place of a replay."""
    calls, step = [], server.step

    def counted() -> object:
        calls.append("step")
        return step()

    server.step = counted
    return calls


def served(server, slots: list[int]) -> list[int] | str:
    """What the server gives, or how its outputs differ: where two programs write one row, by chance."""
    try:
        return server.serve(list(slots))
    except ValueError as differs:
        return str(differs)


def check_grid(make_server: Callable[[], object]) -> None:
    """*Right for one adapter*: a server whose one graph serves any batch, after any other."""
    rng = random.Random(28371)
    batches = [[0] * 4, [0, 1, 2, 3], [1, 1, 3, 3, 3], [0, 1] * 4, [NO_ADAPTER] * 8, [3, 2, 1, 0] * 2,
               [2, 2] + [NO_ADAPTER] * 6, [3, 1, 2], [1, NO_ADAPTER, NO_ADAPTER, NO_ADAPTER]]
    batches += [rng.choices(range(NO_ADAPTER, MAX_LORAS), k=rng.randint(1, MAX_TOKENS))
                for _ in range(20)]
    server, before = make_server(), "the capture"
    eager = watched(server)
    for slots in batches:
        got, expected = served(server, slots), detective.expected(slots)
        assert not eager, f"slots {slots}: serve called step: it must replay the graph that it has"
        assert got == expected, f"slots {slots} after {before}: got {got}, expected {expected}"
        before = slots
    if server.out.is_cuda:
        ms = host_ms(lambda: server.refresh([0, 1, 2, 3]), queued_ms=10.0)
        assert ms < 5.0, f"all right, but refresh waits: {ms:.1f} ms behind 10 ms of queued work"
    print("passed")


# -- two batches ----------------------------------------------------------------------------------------

SUSPECTS = {  # name -> (programs of its graph, the batch of its capture, what it does with the tail)
    "a graph with one program": (1, [0] * 8, "keep"),
    "a graph with two programs": (2, [0] * 4 + [1] * 4, "keep"),
    "a graph with eight programs and an old tail": (8, [0] * 8, "keep"),
    "a graph with eight programs and an old tail, in which every slot is set to 0": (8, [0] * 8, "zero"),
}


def workers(batches: Sequence[Sequence[int]], programs: int, dummy: Sequence[int],
            tail: str) -> list[list[list[int]]]:
    """For each batch and each of its tokens: the adapters that would work on it. Needs no GPU."""
    bounds, owners, found = [0] * (MAX_TOKENS + 1), [0] * MAX_TOKENS, []
    for slots in (dummy, *batches):
        runs = [(slot, len([*run])) for slot, run in groupby(slots)]
        bounds[:len(runs) + 1] = [0, *accumulate(length for _, length in runs)]
        owners[:len(runs)] = [slot for slot, _ in runs]
        if tail == "zero":
            owners[len(runs):] = [0] * (MAX_TOKENS - len(runs))
        found.append([[owners[p] for p in range(programs) if bounds[p] <= token < bounds[p + 1]
                       and owners[p] != NO_ADAPTER] for token in range(len(slots))])
    return found[1:]


def check_two_batches(batches: Sequence[Sequence[int]]) -> None:
    """*Right for one adapter*: two batches that no suspect serves rightly, whoever is faster."""
    assert 1 <= len(batches) <= 2, f"two batches at most, and these are {len(batches)}"
    for slots in batches:
        assert 1 <= len(slots) <= MAX_TOKENS, f"{slots} has {len(slots)} tokens; 1 to {MAX_TOKENS} fit"
        assert all(NO_ADAPTER <= slot < MAX_LORAS for slot in slots), f"{slots}: slots are -1 to 3"
    for name, suspect in SUSPECTS.items():
        surely, luck = [], []
        for slots, served in zip(batches, workers(batches, *suspect)):
            for token, (slot, by) in enumerate(zip(slots, served)):
                if len(by) > 1:
                    luck.append((slots, token, by))
                elif by != [slot] * (slot != NO_ADAPTER):
                    surely.append(token)
        race = "".join(f"; token {token} of {slots} has two writers, adapters {by}, so that its value is "
                       "a matter of luck" for slots, token, by in luck[:1])
        assert surely, f"{name} may serve {list(map(list, batches))} rightly{race}"
    print("passed")
