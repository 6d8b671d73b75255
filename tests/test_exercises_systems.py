"""The checkers of *How the real systems do it* pass the solution and refuse wrong answers."""

import pytest
import torch

from book import exercises
from book.exercises.systems import FAULTS, SERVERS, adapters_of


def faults(server, **instead):
    return {name for name, can_have in (FAULTS | instead).items() if can_have(server)}


def answer(**instead):
    """The solution, with some of its conditions replaced."""
    instead = {name.replace("_", " "): condition for name, condition in instead.items()}
    return lambda: exercises.check_faults(lambda server: faults(server, **instead))


def graphs(buckets, max_loras, key):
    return {(rows, n): -(-rows // 16) * (n + 1) if n else 0
            for rows in buckets for n in adapters_of(max_loras, key)}


def without_guest(buckets, max_loras, key):  # right while no base row is in the batch
    return {(rows, n): -(-rows // 16) * n for rows in buckets for n in adapters_of(max_loras, key)}


def powers_only(buckets, max_loras, key):  # right while max_loras is a power of two
    counts = adapters_of(max_loras, key)
    if key == "counts":
        counts = [n for n in counts if n & (n - 1) == 0]
    return {(rows, n): -(-rows // 16) * (n + 1) if n else 0 for rows in buckets for n in counts}


def find(slots, buckets, max_loras, key, none=-1):
    used = len(set(slots) - {none})
    return (min(rows for rows in buckets if rows >= len(slots)),
            min(n for n in adapters_of(max_loras, key) if n >= min(used, max_loras)))


def base_counted(*args):  # right while no base row is in the batch
    return find(*args, none=None)


def checked(graphs=graphs, find=find):
    return lambda: exercises.check_graphs(graphs, find)


def packed(align=16, tail=0, gap=True, copies=False):
    def pack(fields, device):
        starts, end = {}, 0
        for name, (count, dtype) in fields.items():
            step = align or dtype.itemsize
            end = -(-end // step) * step
            starts[name] = end
            end += count * dtype.itemsize if gap else 0
        buffer = torch.zeros(-(-end // 16) * 16 + tail, dtype=torch.uint8, device=device)
        if not gap:
            buffer = torch.zeros(1024, dtype=torch.uint8, device=device)[:sum(
                -(-count * dtype.itemsize // 16) * 16 for count, dtype in fields.values())]
        views = {name: buffer[starts[name]:starts[name] + count * dtype.itemsize].view(dtype)
                 for name, (count, dtype) in fields.items()}
        return buffer, {name: view.clone() for name, view in views.items()} if copies else views
    return lambda: exercises.check_pack(pack)


def converted(fields, device):  # one dtype for all: right for int32
    buffer = torch.zeros(sum(-(-count // 4) * 4 for count, _ in fields.values()),
                         dtype=torch.int32, device=device)
    views, start = {}, 0
    for name, (count, _) in fields.items():
        views[name] = buffer[start:start + count]
        start += -(-count // 4) * 4
    return buffer, views


RIGHT = [answer(), checked(), packed()]
WRONG = [
    ("'half' is impossible", answer(half=lambda s: not s.waits_for_load)),  # one stream is an order
    ("'neighbour' is possible", answer(neighbour=lambda s: s.staging == 1 and not s.waits_for_copy)),
    ("'guest' is impossible", answer(guest=lambda s: s.base_is_group and not s.key_counts_base)),
    ("'never there' is impossible", answer(never_there=lambda s: s.lora != "always")),
    ("'question' is impossible", answer(question=lambda s: s.reads != "never")),
    ("is not among", lambda: exercises.check_faults(lambda server: {"race"})),
    (r"graph \(1, 8\) has 9 programs, not 8", checked(without_guest)),
    ("the graphs are", checked(powers_only)),
    ("expected", checked(find=base_counted)),
    ("expected", checked(find=lambda slots, buckets, max_loras, key: (
        find(slots, buckets, max_loras, key)[0], max_loras))),  # always the widest
    ("no multiple of 16", packed(align=None)),  # right where each field fills 16 bytes
    ("is no view of the buffer", packed(copies=True)),
    ("bytes, ", packed(tail=16)),
    ("share bytes", packed(gap=False)),
    ("scalings is torch.int32", lambda: exercises.check_pack(converted)),
]


@pytest.mark.parametrize("right", RIGHT)
def test_the_solution_passes(right, capsys):
    right()
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.parametrize("message, wrong", WRONG)
def test_a_wrong_answer_is_refused_and_told_why(message, wrong, capsys):
    with pytest.raises(AssertionError, match=message):
        wrong()
    assert capsys.readouterr().out == ""


def test_the_servers_have_each_fault_and_none():
    found = {frozenset(faults(server)) for server in SERVERS}
    assert frozenset() in found and set().union(*found) == set(FAULTS)
