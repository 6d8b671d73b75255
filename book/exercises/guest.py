"""Checkers for the exercises of *The guest from the base model*."""

import random
from collections.abc import Callable, Sequence
from itertools import combinations, combinations_with_replacement

import torch

from book import detective
from book.exercises.grid import watched
from lorakit import NO_ADAPTER

MAX_TOKENS, MAX_LORAS = 8, 4


def check_guest(make_server: Callable[[], object]) -> None:
    """*The guest from the base model*: a server that is right for every company, with guests and without."""
    rng, server = random.Random(32005), make_server()
    eager = watched(server)
    companies = [[*slots] for size in range(1, MAX_LORAS + 1) for slots in combinations(range(4), size)]
    batches = known = [[NO_ADAPTER] * 3] + companies + [[NO_ADAPTER, *slots] for slots in companies]
    for _ in range(12):  # in any order, some twice
        slots = rng.choice(known) + rng.choices([NO_ADAPTER, *range(MAX_LORAS)], k=rng.randint(0, 3))
        batches = batches + [rng.sample(slots, len(slots))]
    for slots in batches:
        got, expected = server.serve(list(slots)), detective.expected(slots)
        got = detective.read(got) if isinstance(got, torch.Tensor) else got
        assert not eager, f"slots {slots}: serve called step: it must replay a graph that it has"
        if got == expected:
            continue
        lost = sorted({slot for slot, mine, right in zip(slots, got, expected) if mine != right})
        raise AssertionError(f"slots {slots}: got {got}, expected {expected}: wrong for slots {lost}, with "
                             f"{len({*slots} - {NO_ADAPTER})} adapters and "
                             f"{'a' if NO_ADAPTER in slots else 'no'} guest")
    print("passed")


# -- who is lost ----------------------------------------------------------------------------------------

def lost(plan: Callable[[list[int]], tuple[list[int], int]], slots: Sequence[int]) -> list[int]:
    """The adapters of a batch that no program serves; [] if the plan is right for it."""
    owners, programs = plan(list(slots))
    return sorted({*slots} - {NO_ADAPTER} - {*owners[:programs]})


def check_lost(*answers: tuple[Callable, Sequence[int] | None]) -> None:
    """*The guest from the base model*: for each plan a batch in which it loses an adapter, or None."""
    plans = {plan for plan, _ in answers}
    assert len(answers) == len(plans) == 4, (
        f"there are four plans, and these are {len(answers)} answers on {len(plans)}")
    small = [slots for size in range(1, MAX_LORAS + 2)
             for slots in combinations_with_replacement([NO_ADAPTER, *range(MAX_LORAS)], size)]
    for plan, batch in answers:
        if batch is None:
            faults = [slots for slots in small if lost(plan, slots)]
            assert not faults, (f"{plan.__name__} does lose an adapter, and a batch of "
                                f"{min(map(len, faults))} tokens is enough to see it")
            continue
        assert 1 <= len(batch) <= MAX_TOKENS, f"{plan.__name__}: {len(batch)} tokens; 1 to 8 fit"
        assert all(slot in range(NO_ADAPTER, MAX_LORAS) for slot in batch), (
            f"{plan.__name__}: {batch}: slots are -1 to 3")
        owners, programs = plan(list(batch))
        assert lost(plan, batch), (f"{plan.__name__} is right for {list(batch)}: its groups are {owners}, and "
                                   f"it launches {programs}")
    print("passed")
