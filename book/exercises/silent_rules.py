"""Checkers for the exercises of *The silent rules*."""

import random
from collections.abc import Callable

import torch

from lorakit import runtime, timing
from lorakit.capture import attempt
from lorakit.capture.recorder import Recorder
from book.exercises.one_layer import Asks

BROKEN = {"A": "S13", "B": "S3", "C": "S10", "D": "S1", "E": "S2"}
BATCHES = [([1, 0, 2], 1), ([2, 2], 1), ([0, 1, 1, 2], 3), ([1, 0, 0], 3), ([2], 2)]
PLACES, SLOTS, NOBODY = 4, 3, -1


def replayed(breaks: str | None) -> list[list[int]]:
    """What a server has in hand after BATCHES, if its step breaks one rule. Needs no GPU."""
    first, factor = BATCHES[0]
    buffer, scale = torch.full((PLACES,), NOBODY), torch.full((1,), factor)
    buffer[:len(first)] = torch.tensor(first)
    graph, ids = Recorder(), torch.arange(SLOTS)
    with graph.capture():
        read = buffer[:len(first)] if breaks == "S3" else buffer
        counts = (read[:, None] == ids).sum(dim=0) * (factor if breaks == "S2" else scale)
    kept = []
    for slots, factor in BATCHES:
        scale.fill_(factor)
        if breaks == "S1":
            buffer = torch.full((PLACES,), NOBODY) if kept else buffer
        if breaks != "S13":
            buffer.fill_(NOBODY)
        buffer[:len(slots)] = torch.tensor(slots)
        graph.replay()
        kept.append(counts if breaks == "S10" else counts.clone())
    return [output.tolist() for output in kept]


def eager() -> list[list[int]]:
    return [[factor * slots.count(slot) for slot in range(SLOTS)] for slots, factor in BATCHES]


def evidence() -> None:
    """*The silent rules*: prints what five broken steps gave, beside what an eager step gives."""
    columns = {"eager": eager()} | {name: replayed(rule) for name, rule in BROKEN.items()}
    print(f"{'slots':13}{'scale':7}" + "".join(f"{name:12}" for name in columns).rstrip())
    for i, (slots, factor) in enumerate(BATCHES):
        cells = "".join(f"{str(outputs[i]):12}" for outputs in columns.values())
        print(f"{str(slots):13}{factor:<7}{cells}".rstrip())


def check_rules(**answers: str) -> None:
    """*The silent rules*: which of five steps breaks which rule."""
    for name, rule in BROKEN.items():
        answer, found = str(answers.get(name)).upper(), replayed(rule)
        assert answer in BROKEN.values(), (
            f"{name}: {answers.get(name)!r} is not among {', '.join(sorted(BROKEN.values()))}")
        for (slots, factor), got, would in zip(BATCHES, found, replayed(answer)):
            assert got == would, (f"{name} is not {answer}: for slots {slots}, scale {factor}, a step "
                                  f"that breaks {answer} leaves {would}, and {name} left {got}")
    print("passed")


class Replays:
    """A graph of one call of fn, by CUDA or by the recorder; counts its replays."""

    def __init__(self, fn: Callable[[], object]) -> None:
        self.count = 0
        if runtime.device().type == "cuda":
            fn()  # warm up
            tried = attempt(fn)
            assert tried.graph, f"the capture of step is refused ({tried.rule}): {tried.error}"
            self.graph = tried.graph
        else:
            self.graph = Recorder()
            with self.graph.capture():
                fn()

    def run(self) -> None:
        self.count += 1
        self.graph.replay()


def check_server(make_server: Callable[[object], object]) -> None:
    """*The silent rules*: a server that is right when a graph of its step is replayed."""
    rng, delta = random.Random(24), (10.0, 20.0, 30.0)
    batches = [([0, 1, 2, 2], 1.0), ([1], 1.0), ([0, 0], 2.0)]
    batches += [(rng.choices(range(3), k=rng.randint(1, 4)), rng.choice((0.5, 1.0, 2.0)))
                for _ in range(30)]
    server = make_server(runtime.device())
    graph = Replays(server.step)
    before, wanted = server.steps, []
    for number, (slots, scale) in enumerate(batches):
        wanted.append(sum(delta[slot] for slot in slots) * scale)
        found = server.serve(graph.run, list(slots), scale)
        given = f"batch {number}, slots {slots}, scale {scale}"
        assert graph.count == number + 1, f"{given}: serve must call run once"
        assert found == wanted[-1], f"{given}: serve gave {found}, not {wanted[-1]}"
    kept = [float(total) for total in server.kept]
    assert len(kept) == len(wanted), f"{len(wanted)} batches were served, and {len(kept)} results kept"
    for number, (found, right) in enumerate(zip(kept, wanted)):
        assert found == right, (f"batch {number}, slots {batches[number][0]}: serve gave {right}, and "
                                f"afterwards kept holds {found}")
    counted = server.steps - before
    assert counted == len(batches), f"{len(batches)} batches were served, and steps went up by {counted}"
    print("passed")


def check_tail(fill_tail: Callable[[torch.Tensor, torch.Tensor, int], object]) -> None:
    """*The silent rules*: a tail that programs behind the batch may read."""
    device, max_loras = runtime.device(), 3
    for lens, slots in (([2, 1], [1, 2]), ([1], [2]), ([3, 0, 2, 1], [0, 1, 2, 0]), ([], []),
                        ([4, 4, 1], [2, 1, 1]), ([1] * 5, [0, 1, 2, 0, 1])):
        segments, bounds = len(lens), [0]
        for length in lens:
            bounds.append(bounds[-1] + length)
        given = f"{segments} segments of {lens} tokens, slots {slots}"
        old = [5, 3, 9, 4, 12][segments:]  # of an earlier batch, and no order in it
        seg_indptr = torch.tensor(bounds + old, dtype=torch.int32).to(device)
        weight_indices = torch.tensor(slots + [7] * (5 - segments), dtype=torch.int32).to(device)
        addresses = seg_indptr.data_ptr(), weight_indices.data_ptr()
        with Asks() as asked:
            fill_tail(seg_indptr, weight_indices, segments)
        found, owners = seg_indptr.tolist(), weight_indices.tolist()
        assert addresses == (seg_indptr.data_ptr(), weight_indices.data_ptr()), f"{given}: a tensor moved"
        assert (found[:segments + 1], owners[:segments]) == (bounds, slots), (
            f"{given}: the batch itself was changed, to bounds {found} and slots {owners}")
        for program in range(segments, 5):
            first, end = found[program], found[program + 1]
            assert end <= first, (f"{given}: program {program} is behind the batch and adds slot "
                                  f"{owners[program]} to tokens {list(range(first, end))}")
            assert end == first, f"{given}: bounds {found} go down behind the batch"
            assert 0 <= owners[program] < max_loras, (
                f"{given}: program {program} reads adapter {owners[program]} of {max_loras}")
        assert not asked.names, f"{given}: right values, but {sorted(asked.names)} asks the device"
    if device.type == "cuda":
        ms = timing.host_ms(lambda: fill_tail(seg_indptr, weight_indices, 5), queued_ms=10.0)
        assert ms < 5.0, f"right values, but the host waits: {ms:.1f} ms behind 10 ms of queued work"
    print("passed")
