"""Checkers for the exercises of *Overlap*, and below them what its experiments need."""

import ctypes
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import torch

from lorakit import runtime, slots_to_device
from lorakit.adapters import LoRAWeights
from lorakit.capture import driver
from lorakit.routing import route_by_adapter

GRAPHS = [  # work -> what must have ended before it, and durations
    ({"base": [], "shrink": [], "expand": ["base", "shrink"]}, {"base": 20, "shrink": 4, "expand": 6}),
    ({"expand": ["base", "shrink"], "shrink": [], "base": []}, {"base": 3, "shrink": 8, "expand": 6}),
    ({"base": [], "shrink": [], "expand": ["shrink"], "add": ["base", "expand"]},
     {"base": 9, "shrink": 4, "expand": 6, "add": 2}),
    ({"x": [], "short": ["x"], "long": ["x"], "late": ["short"], "end": ["late", "long"]},
     {"x": 1, "short": 2, "long": 5, "late": 7, "end": 1}),  # the longer parent is on the shorter path
    ({"end": ["a"], "a": [], "alone": []}, {"end": 1, "a": 1, "alone": 5}),
    ({"a": []}, {"a": 2}),
]
WAYS = ("in line", "forked", "delta")


def check_longest_path(longest_path: Callable[[dict, dict], float]) -> None:
    """*Overlap*: what a dependence graph costs at least, if all that may overlap does."""
    for after, us in GRAPHS:
        def end(work: str) -> float:
            return us[work] + max((end(before) for before in after[work]), default=0)

        wanted = max(map(end, after))
        found = longest_path({work: list(before) for work, before in after.items()}, dict(us))
        assert found == wanted, f"after {after}, us {us}: the longest path takes {wanted}, got {found}"
    print("passed")


def check_forked(forked: Callable[[list[str]], list[str]]) -> None:
    """*Overlap*: a schedule for some projections, one after the other, each with its shrink beside."""
    for projections in (["o"], ["qkv", "o"], ["qkv", "o", "gate_up", "down"]):
        before = simulate([str(call) for call in forked(list(projections))], projections)
        earlier = None
        for name in projections:
            base, shrink, expand = (f"{part} {name}" for part in ("base", "shrink", "expand"))
            for first in filter(None, (base, shrink)):
                assert first in before[expand], f"{projections}: nothing orders {first!r} before {expand!r}"
                assert earlier is None or earlier in before[first], (
                    f"{projections}: nothing orders {earlier!r}, which writes its x, before {first!r}")
            assert base not in before[shrink] and shrink not in before[base], (
                f"{projections}: {base!r} and {shrink!r} are in order, so they cannot overlap")
            earlier = expand
    print("passed")


def simulate(calls: list[str], projections: Sequence[str]) -> dict[str, set[str]]:
    """Work -> all that comes before it. Raises AssertionError for a list that no capture takes."""
    wanted = [f"{part} {name}" for name in projections for part in ("base", "shrink", "expand")]
    streams, before = {"origin": set()}, {}  # captured stream -> the work before its next
    for call in calls:
        stream, verb, rest = [*call.split(" ", 2), "", ""][:3]
        assert verb in ("runs", "waits") and rest, f"{call!r} is neither 'a waits b' nor 'a runs work'"
        if verb == "waits":
            assert rest in streams or stream not in streams, f"{call!r}: {rest} was not forked, L7"
            if rest in streams:
                streams[stream] = streams.get(stream, set()) | streams[rest]
            continue
        assert rest in wanted, f"{call!r}: the layer has {wanted}"
        assert rest not in before, f"{rest!r} runs twice"
        assert stream in streams, f"{call!r}: {stream} was not forked, so this runs at once, S6"
        before[rest] = set(streams[stream])
        streams[stream].add(rest)
    missing = [work for work in wanted if work not in before]
    assert not missing, f"{projections}: {missing[0]!r} does not run"
    unjoined = sorted(set(before) - streams["origin"])
    assert not unjoined, f"{projections}: {unjoined[0]!r} is not joined at the end, L6"
    return before


def check_best(best: Callable[[dict[str, float]], str]) -> None:
    """*Overlap*: from durations to the arrangement that may win."""
    parts = "base shrink expand add edges shrink_bytes expand_bytes".split()
    rows = [(30, 4, 6, 2, 1, 1, 2), (30, 4, 6, 2, 3, 1, 2), (30, 4, 6, 5, 1, 1, 4), (30, 4, 6, 1, 1, 3, 3),
            (30, 4, 6, 5, 1, 4, 6), (3, 4, 6, 5, 0, 0, 0), (2, 9, 3, 4, 1, 1, 1), (30, 4, 6, 6, 0, 0, 0),
            (30, 4, 6, 9, 4, 0, 6), (9, 6, 8, 4, 2, 1, 1), (10, 8, 8, 2, 3, 0, 0), (30, 4, 6, 2, 0, 0, 4),
            (30, 6, 4, 5, 1, 6, 0), (8, 2, 10, 6, 0, 1, 1)]
    for row in rows:
        us = dict(zip(parts, row))
        wanted, found = best_of(us), best(dict(us))
        times = ", ".join(f"{way} {time:g}" for way, time in times_of(us).items())
        assert found == wanted, f"{us}: {wanted!r} ({times}), got {found!r}"
    print("passed")


def times_of(us: dict[str, float]) -> dict[str, float]:
    """What each arrangement takes, by the model of the exercise."""
    busy = us["base"] + us["shrink_bytes"]
    return {"in line": us["base"] + us["shrink"] + us["expand"],
            "forked": max(busy, us["shrink"]) + us["expand"] + us["edges"],
            "delta": max(busy + us["expand_bytes"], us["shrink"] + us["expand"]) + us["add"] + us["edges"]}


def best_of(us: dict[str, float]) -> str:
    times = times_of(us)
    return min(WAYS, key=times.get)  # the first of equals


# -- what the experiments need --------------------------------------------------------------------------

class EdgeData(ctypes.Structure):
    """CUgraphEdgeData of cuda.h."""

    _fields_ = [("from_port", ctypes.c_ubyte), ("to_port", ctypes.c_ubyte), ("type", ctypes.c_ubyte),
                ("reserved", ctypes.c_ubyte * 5)]


def label(name: str) -> str:
    """What a kernel of a layer does, by its name: whatever is not ours belongs to the base product."""
    return next((part for part in ("shrink", "expand", "linear") if part in name), "base")


def edges(graph: torch.cuda.CUDAGraph) -> list[tuple[str, str, str]]:
    """(from, to, kind) of each edge of a graph that was kept: kind is 'full' or 'programmatic'."""
    handle, count = ctypes.c_void_p(graph.raw_cuda_graph()), ctypes.c_size_t()
    driver.call("cuGraphGetEdges_v2", handle, None, None, None, ctypes.byref(count))
    starts, ends = ((ctypes.c_void_p * count.value)() for _ in range(2))
    data = (EdgeData * count.value)()
    if count.value:
        driver.call("cuGraphGetEdges_v2", handle, starts, ends, data, ctypes.byref(count))
    names = [[label(driver.describe(ctypes.c_void_p(node)).name) for node in side]
             for side in (starts, ends)]
    return sorted((*pair, "programmatic" if edge.type == 1 else "full")
                  for *pair, edge in zip(*names, data))


def random_weights(sizes: dict[str, tuple[int, tuple[int, ...]]], loras: int, rank: int,
                   dtype: torch.dtype) -> tuple[list[dict], list[dict]]:
    """Four sets of base weights and 16 of adapters, for projections of (hidden, widths) each."""
    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=dtype, device=runtime.device()).mul_(0.02)

    return ([{name: random(sum(widths), hidden) for name, (hidden, widths) in sizes.items()}
             for _ in range(4)],
            [{name: LoRAWeights(random(loras, len(widths), rank, hidden), random(loras, sum(widths), rank),
                                widths) for name, (hidden, widths) in sizes.items()} for _ in range(16)])


def problems(weights: tuple[list[dict], list[dict]], tokens: int,
             names: Sequence[str]) -> list[list[SimpleNamespace]]:
    """Sixteen layers of some projections, which share inputs and outputs. Adapters take even runs of
    tokens. Each problem has x, w, lora, batch, out, delta (of out's shape), and slots, a list."""
    bases, loras = weights
    device, count, width = runtime.device(), *loras[0][names[0]].lora_a.shape[::2]
    slots = [token * count // tokens for token in range(tokens)]
    ranks = torch.full((count,), width, dtype=torch.int32, device=device)
    batch = route_by_adapter(slots_to_device(slots, count, device), ranks, torch.ones(count, device=device))
    shared = {}
    for name in names:
        w = bases[0][name]
        shared[name] = {
            "x": torch.randn(tokens, w.shape[1], device=device).to(w), "batch": batch, "slots": slots,
            "out": w.new_zeros(tokens, w.shape[0]), "delta": w.new_zeros(tokens, w.shape[0])}
    return [[SimpleNamespace(w=bases[i % len(bases)][name], lora=layer[name], **shared[name])
             for name in names] for i, layer in enumerate(loras)]


def halves(p) -> tuple[Callable, Callable]:
    """The kernels that `ops.lora_linear` chooses for a problem with x, lora and batch."""
    from lorakit.kernels.expand import expand
    from lorakit.kernels.shrink import shrink
    from lorakit.kernels.tiles import one_by_one, one_by_one_shrinks
    from lorakit.kernels.tokens import expand_tokens, shrink_tokens
    alone = one_by_one(p.x.shape[0], p.batch.num_segments)
    shrinks_alone = alone and one_by_one_shrinks(p.x.shape[1], p.lora.lora_b.shape[2])
    return shrink_tokens if shrinks_alone else shrink, expand_tokens if alone else expand


def ordered(launch: Callable, *arguments: object) -> object:
    """Call a launcher of `lorakit.kernels` so that its kernel starts when all before it has ended."""
    from lorakit.kernels import tiles
    has_pdl, tiles.has_pdl = tiles.has_pdl, lambda device: False
    try:
        return launch(*arguments)
    finally:
        tiles.has_pdl = has_pdl
