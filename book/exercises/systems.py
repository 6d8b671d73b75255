"""Checkers for the exercises of *How the real systems do it*."""

import itertools
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from lorakit import NO_ADAPTER, runtime


@dataclass(frozen=True)
class Server:
    """What decides which of six faults a server can have."""

    grid: str  # groups of the captured grid: "capacity", "key" (what the graph's key says), "captured"
    base_is_group: bool  # rows without an adapter are a group of the kernel's
    key_counts_base: bool  # and the key counts that group
    lora: str  # "always" in the graph, "two graphs" (with and without), or an "if" of Python's
    staging: int  # pinned buffers rewritten in turn; 0: a new one each step
    waits_for_copy: bool  # for the event of a buffer's last copy, before it is rewritten
    load_stream: str  # an adapter is loaded on the "same" stream as the steps, or on its "own"
    waits_for_load: bool  # nobody uses the slot before the load's event
    reads: str  # the host reads the device "never", "on change" of the batch, or in "each layer"


FAULTS = {  # the fault, and whether a server can have it
    "one adapter": lambda s: s.grid == "captured",
    "guest": lambda s: s.grid == "key" and s.base_is_group and not s.key_counts_base,
    "never there": lambda s: s.lora == "if",
    "neighbour": lambda s: s.staging > 0 and not s.waits_for_copy,
    "half": lambda s: s.load_stream == "own" and not s.waits_for_load,
    "question": lambda s: s.reads == "each layer",
}
SERVERS = [Server(*choice) for choice in itertools.product(
    ("capacity", "key", "captured"), (False, True), (False, True), ("always", "two graphs", "if"),
    (0, 1, 2), (True, False), ("same", "own"), (True, False), ("never", "on change", "each layer"))]


def check_faults(faults: Callable[[Server], set[str]]) -> None:
    """*How the real systems do it*: which of six faults a server can have, by its description."""
    for server in SERVERS:
        found = set(faults(server))
        described = ", ".join(f"{name}={value!r}" for name, value in asdict(server).items())
        assert found <= set(FAULTS), f"{sorted(found - set(FAULTS))} is not among {list(FAULTS)}"
        for name, can_have in FAULTS.items():
            right, said = can_have(server), name in found
            assert right == said, (f"{described}: {name!r} is {'' if right else 'im'}possible, and "
                                   f"your answer {'has' if said else 'lacks'} it")
    print("passed")


def adapters_of(max_loras: int, key: str) -> list[int]:
    """The adapter counts that get a graph in each bucket."""
    if key == "counts":
        powers = [1 << i for i in range(max_loras.bit_length()) if 1 << i < max_loras]
        return [0, *powers, max_loras]
    return [0, max_loras] if key == "two" else [max_loras]


def check_graphs(graphs: Callable[[list[int], int, str], dict[tuple[int, int], int]],
                 find: Callable[[list[int], list[int], int, str], tuple[int, int]]) -> None:
    """*How the real systems do it*: which graphs there are, how large, and which one a batch takes."""
    rng = random.Random(41)
    for buckets, max_loras in (([1, 8, 32], 8), ([4], 1), ([16, 17, 256], 5), ([2, 64], 2)):
        for key in ("always", "two", "counts"):
            given = f"buckets {buckets}, max_loras {max_loras}, key {key!r}"
            wanted = {(rows, n): -(-rows // 16) * (n + 1) if n else 0
                      for rows in buckets for n in adapters_of(max_loras, key)}
            found = graphs(list(buckets), max_loras, key)
            assert set(found) == set(wanted), (
                f"{given}: the graphs are {sorted(found)}, expected {sorted(wanted)}")
            for graph, programs in wanted.items():
                assert found[graph] == programs, (
                    f"{given}: graph {graph} has {programs} programs, not {found[graph]}")
            for _ in range(60):
                few = rng.sample(range(-1, max_loras), k=rng.randint(1, max_loras + 1))
                slots = rng.choices(few, k=rng.randint(1, buckets[-1]))
                used = len(set(slots) - {NO_ADAPTER})
                right = (min(rows for rows in buckets if rows >= len(slots)),
                         min(n for n in adapters_of(max_loras, key) if n >= used))
                shown = slots if len(slots) < 9 else f"{slots[:8]} ... ({len(slots)} tokens)"
                graph = find(list(slots), list(buckets), max_loras, key)
                assert graph == right, f"{given}, slots {shown}: you took {graph}, expected {right}"
    print("passed")


def check_pack(pack: Callable) -> None:
    """*How the real systems do it*: one buffer for a step's metadata, and views that can be read."""
    rng, ints = random.Random(412), (torch.int32, torch.float32, torch.int64, torch.float16, torch.bool)
    cases = [{"ranks": (8, torch.int32), "scalings": (8, torch.float32), "slots": (32, torch.int32)},
             {"seg_indptr": (9, torch.int32), "scalings": (8, torch.float32), "seeds": (3, torch.int64)},
             {"done": (5, torch.bool), "seeds": (2, torch.int64), "scale": (3, torch.float16)}]
    cases += [{f"field {i}": (rng.randint(1, 40), rng.choice(ints)) for i in range(rng.randint(1, 7))}
              for _ in range(20)]
    for fields in cases:
        given = ", ".join(f"{name}: {count} of {dtype}" for name, (count, dtype) in fields.items())
        (host, theirs), (held, views) = pack(dict(fields), "cpu"), pack(dict(fields), runtime.device())
        room = sum(-(-count * dtype.itemsize // 16) * 16 for count, dtype in fields.values())
        assert held.dim() == 1 and held.is_contiguous(), f"{given}: the buffer is not one flat row"
        assert held.nbytes <= room, f"{given}: the buffer has {held.nbytes} bytes, {room} are enough"
        assert set(views) == set(fields), f"{given}: the views are {sorted(views)}"
        taken = []
        for name, (count, dtype) in fields.items():
            view, start = views[name], views[name].data_ptr() - held.data_ptr()
            assert view.dtype == dtype and tuple(view.shape) == (count,), (
                f"{given}: {name} is {view.dtype} of shape {tuple(view.shape)}")
            assert 0 <= start and start + view.nbytes <= held.nbytes, (
                f"{given}: {name} is no view of the buffer, so the copy does not reach it")
            assert start % 16 == 0, f"{given}: {name} begins at byte {start}, no multiple of 16"
            taken.append((start, start + view.nbytes, name))
        assert held.dtype == torch.uint8, f"{given}: the buffer is of {held.dtype}, not of bytes"
        taken.sort()
        for (_, end, before), (start, _, after) in zip(taken, taken[1:]):
            assert end <= start, f"{given}: {before} and {after} share bytes"
        for turn in range(2):  # a view that is read once may be a copy
            values = {name: torch.tensor([rng.randint(0, 99) for _ in range(count)]).to(dtype)
                      for name, (count, dtype) in fields.items()}
            for name, value in values.items():
                theirs[name].copy_(value)
            held.copy_(host)
            for name, value in values.items():
                assert views[name].cpu().tolist() == value.tolist(), (
                    f"{given}: after copy {turn + 1}, {name} is {views[name].tolist()}")
    print("passed")
