"""Checkers for the exercises of *The neighbour's adapter*."""

import random
from collections.abc import Callable, Sequence

import torch

from book import detective
from lorakit import timing

LORAS, TOKENS = 4, 8
HELD_MS = 20.0


def check_neighbour(server: Callable[[], object]) -> None:
    """*The neighbour's adapter*: a server that is right however far the host runs ahead. Needs a GPU."""
    served, rng = server(), random.Random(15546)
    batches = [rng.choices(range(LORAS), k=rng.randint(1, TOKENS)) for _ in range(300)]
    for i, slots in enumerate(batches[:20]):
        got = detective.read(served.serve(list(slots)))
        assert got == detective.expected(slots), (
            f"batch {i}, {slots}, with a wait after each batch: got {got}, not {detective.expected(slots)}")
    ms = timing.host_ms(lambda: served.serve(list(batches[0])), queued_ms=HELD_MS)
    assert ms < HELD_MS / 2, (f"one batch behind {HELD_MS:.0f} ms of queued work, every earlier copy done: "
                              f"serve holds the host for {ms:.1f} ms")
    for window_ms in (0.0, 0.05, 0.5):
        torch.cuda.synchronize()
        timing.queue_work(HELD_MS)
        outs = []
        for slots in batches:
            timing.queue_work(window_ms)
            outs.append(served.serve(list(slots)))
        read = [detective.read(out) for out in outs]
        for i, (slots, got) in enumerate(zip(batches, read)):
            assert got == detective.expected(slots), (
                f"batch {i} of {len(batches)}, {slots}, back to back behind queued work, {window_ms} ms more "
                f"before each: got {got}, not {detective.expected(slots)}{hint(got, batches, i)}")
    print("passed")


def hint(got: list[int], batches: Sequence[list[int]], i: int) -> str:
    """Whose adapters these are, if a later batch has them in the same rows."""
    for j, slots in enumerate(batches[i + 1:], i + 1):
        if (detective.expected(slots) + [0] * TOKENS)[:len(got)] == got:
            return f"; batch {j} has these"
    return ""


class Later:
    """What `Stream.run` returns: the call's result once it has run."""

    def __init__(self, fn: Callable, args: tuple) -> None:
        self.fn, self.args, self.value, self.ran = fn, args, None, False


class Stream:
    """A stream that runs each call at once, or, if late, only when somebody waits for it."""

    def __init__(self, late: bool) -> None:
        self.late, self.queue = late, []

    def run(self, fn: Callable, *args: object) -> Later:
        """Queue a call. Its arguments are read when it runs."""
        self.queue.append(Later(fn, args))
        mine = self.queue[-1]
        if not self.late:
            self.wait()
        return mine

    def wait(self, call: Later | None = None) -> None:
        """Run what is queued, in order, up to that call."""
        while self.queue and not (call and call.ran):
            first = self.queue.pop(0)
            first.value, first.ran = first.fn(*first.args), True


def outcome(program: Callable, late: bool) -> str | None:
    """What is wrong with a program's results on such a stream, in words; None if nothing is."""
    batches = [torch.full((4,), 10.0 * (i + 1)) for i in range(6)]
    stream = Stream(late)
    outs = program(stream, [batch.clone() for batch in batches])
    stream.wait()
    for i, (batch, out) in enumerate(zip(batches, outs, strict=True)):
        value = out.value if isinstance(out, Later) else out
        if not torch.equal(value, batch):
            return f"batch {i} is {batch[0]:.0f}, and its result is {value[0]:.0f}"
    return None


def check_late(programs: dict[str, Callable], wrong: str) -> None:
    """*The neighbour's adapter*: which programs may give a wrong result."""
    assert len(programs) == 5, f"there are five programs, and these are {len(programs)}"
    named = set(wrong.upper().replace(",", "").replace(" ", ""))
    assert named <= set(programs), f"{sorted(named - set(programs))} is not among {sorted(programs)}"
    for name, program in sorted(programs.items()):
        said = {late: outcome(program, late) for late in (False, True)}
        if name in named:
            assert any(said.values()), f"{name} is right on both streams, the late one too"
        else:
            late = said[True] is not None
            which = "is late" if late else "runs at once"
            assert not any(said.values()), f"{name} can be wrong: on the stream that {which}, {said[late]}"
    print("passed")
