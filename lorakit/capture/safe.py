"""assert_graph_safe: the regression test for what a graph froze or what a step left behind.

A replay is right if it gives, for every batch, what the function gives eagerly. Chapter *The silent
rules* shows each way in which it is not; the rules' numbers are the book's.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lorakit.capture.attempt import Attempt, attempt, require_gpu
from lorakit.capture.batches import copy_rows, fits, pointers, same_inputs, with_values
from lorakit.capture.frozen import frozen, pool_of
from lorakit.capture.lines import lines_that_wait
from lorakit.capture.poison import zero_free_device, zero_free_pinned
from lorakit.capture.probe import Waits, waits
from lorakit.capture.trees import copied, cut, describe, leaves, mapped, pairs
from lorakit.timing import queue_work


def assert_graph_safe(fn: Callable[..., object], make_inputs: Callable[[int], object], n: int = 20, *,
                      refresh: Callable[[tuple, tuple], None] | None = None,
                      serve: Callable[..., object] | None = None,
                      rtol: float | None = None, atol: float | None = None) -> None:
    """Check that a graph of `fn` serves every batch as `fn` itself does. Synchronises.

    Captures fn once, for batch 0. Then for each batch: writes it into the static inputs, spoils what
    the step must write, replays, and compares with fn run eagerly. Buffers that fn holds itself keep
    what *another* batch left there, as in a server.

    Args:
        fn: takes a batch's inputs and returns a tensor, or a tuple, list, dict or dataclass of them.
            It must be a function of its inputs: the same twice gives the same. It runs
            some five times a batch.
        make_inputs: number of a batch, 0 to n -> its inputs, one or a tuple: tensors on the current
            GPU, Python values, and tuples, lists, dicts or dataclasses of both. The same number must
            give the same batch. Batch 0 is the one that is captured, so give it the Python values of your
            server's own capture. Its tensors are the largest: a later one may have fewer rows
            (axis 0), never more. It may also write buffers that fn holds.
        n: batches, at least 2.
        refresh: (static inputs, a batch's inputs) -> None writes a batch into the static inputs in
            place. None copies each tensor into its first rows and leaves the others as they were.
        serve: what your system does with a batch, `GraphRunner` for example: called with the inputs,
            it returns the outputs. Then nothing is captured here: each output is compared at once,
            and again after the next batch. Then all are served again after PyTorch's free pinned (S7)
            and device memory (S9) was overwritten, and at last behind queued work, so that a host shows
            that rewrites what is still to be read (S8); not if make_inputs writes what the server reads.
        rtol, atol: as in `torch.testing.assert_close`, both or neither. A padded batch may take
            another path through a library's matrix product and round otherwise.

    Raises:
        AssertionError: its text begins with the number of the broken rule, where it can be told, and
            names the batch, the output and the line or the node. A step that blocks the host fails too.
        RuntimeError: without a GPU, or inside of a capture.
        TypeError, ValueError: for bad arguments: a function that returns host values or gives two
            results for one batch, inputs that grow or change their dtype.
    """
    require_gpu("assert_graph_safe", fn)
    for name, given in (("make_inputs", make_inputs), ("refresh", refresh), ("serve", serve)):
        if not callable(given) and (given is not None or name == "make_inputs"):
            raise TypeError(f"{name} must be callable, got {type(given).__name__}")
    if not isinstance(n, int) or n < 2:
        raise ValueError(f"n must be an int of at least 2, got {n!r}")
    if (rtol is None) != (atol is None):
        raise ValueError("rtol and atol must be given both, or neither")
    checks = Checks(fn, make_inputs, refresh or copy_rows, {"rtol": rtol, "atol": atol})
    same_inputs(checks.batch(0), checks.batch(0), 0)
    if checks.difference(checks.eager(0), checks.eager(0)):
        raise ValueError("fn gives two results for batch 0: it must be a function of its inputs")
    checks.serve(serve, n) if serve else checks.replay(n)


@dataclass
class Checks:
    """One function under test."""

    fn: Callable[..., object]
    make_inputs: Callable[[int], object]
    refresh: Callable[[tuple, tuple], None]
    tolerances: dict[str, float | None]
    pool: torch.cuda.MemPool = field(default_factory=torch.cuda.MemPool)  # of the captured batch

    def batch(self, i: int) -> tuple:
        """The inputs of batch i."""
        inputs = self.make_inputs(i)
        return inputs if isinstance(inputs, tuple) else (inputs,)

    def eager(self, i: int) -> object:
        """What fn gives for batch i. The inputs are copies: fn may write into them."""
        expected = self.fn(*copied(self.batch(i)))
        for name, value in leaves(expected, "output"):
            if not isinstance(value, Tensor) or value.device.type != "cuda":
                raise TypeError(f"fn must return tensors on the GPU, as a graph does; {name} is "
                                f"{describe(value)}")
        return copied(expected)

    def replay(self, n: int) -> None:
        """Capture batch 0, then replay it for every batch."""
        with torch.cuda.use_mem_pool(self.pool):  # no later tensor gets the address of one of these
            static = copied(self.batch(0))
        graph = attempt(lambda: self.fn(*static))
        if graph.error:
            raise AssertionError(f"{graph.rule or 'capture'}: the capture is refused: {graph.error}"
                                 + (f"\n  at {graph.line}" if graph.line else ""))
        if not graph.nodes:
            raise AssertionError("S16: the graph is empty: fn launched nothing on the current stream")
        for i in range(n):
            expected = self.expect(i)
            spoil(graph, expected)
            self.write(static, i)
            if wrong := self.replayed(graph, expected):
                raise AssertionError(self.diagnose(graph, static, i, expected, wrong))
        if self.refresh is not copy_rows:
            self.must_not_wait("refresh", self.refresh, static, self.batch(0))

    def expect(self, i: int) -> object:
        """What is right for batch i. Buffers that fn holds are left as another batch leaves them."""
        same_inputs(self.batch(i), self.batch(i), i)
        before, after = i - 1 if i else 1, i + 1
        self.eager(before)
        expected = self.eager(i)
        self.eager(after)
        if wrong := self.difference(self.eager(i), expected):
            raise AssertionError(
                f"S13: batch {i} after batch {after}: {wrong} after batch {before}\n  Without any graph, "
                "fn reads what another batch left in memory that it holds")
        self.eager(before)
        return expected

    def write(self, static: tuple, i: int) -> tuple:
        """Write batch i into the static inputs, and check before and after."""
        batch, before = self.batch(i), pointers(static)
        fits(static, batch, i)
        self.refresh(static, batch)
        for name, address in pointers(static).items():
            if address != before.get(name):
                raise AssertionError(f"S1: refresh gave {name} another address, which the graph does "
                                     "not see: write into it with copy_")
        return batch

    def diagnose(self, graph: Attempt, static: tuple, i: int, expected: object, wrong: str) -> str:
        """Why a replay is wrong: would a graph of this very batch be right?"""
        said = f"batch {i}: {wrong}"
        first = self.batch(0)
        again = attempt(lambda: self.fn(*with_values(static, first)))
        self.expect(i)
        batch = self.write(static, i)
        now = attempt(lambda: self.fn(*with_values(static, batch)))
        if now.error:
            return f"S4: {said}\n  This batch takes a branch that cannot be captured: {now.error}"
        spoil(now, expected)
        if not self.replayed(now, expected):
            rule, why = frozen(graph.nodes, again.nodes, now.nodes)
            changed = [f"{name} was {was!r} at capture and is {value!r} now"
                       for name, was, value in pairs(first, batch)
                       if not isinstance(was, Tensor) and repr(was) != repr(value)]
            return "\n  ".join([f"{rule}: {said}", f"A graph of this batch would be right; {why}",
                                *changed])
        stale = mapped(lambda out, right: cut(out, right.shape).clone(), now.result, expected)
        self.write(static, i)
        for _, buffer, value in pairs(static, batch):
            if isinstance(value, Tensor) and value.dim():
                buffer[len(value):].zero_()
        if self.replayed(now, stale):  # what is behind the batch has a say in its result
            return f"S13: {said}\n  Rows behind the batch still hold another batch's, and they count"
        return (f"S13: {said}\n  A graph of this batch is wrong too: fn reads what another batch left "
                "in memory that it holds itself, or leaves a part of its output unwritten")

    def serve(self, step: Callable[..., object], n: int) -> None:
        """Each batch twice; again with free memory overwritten; and at last with the host far ahead."""
        rights, kept = [], None  # kept: what the server gave for the batch before
        for i in range(n):
            rights.append(expected := self.expect(i))
            outputs = step(*copied(self.batch(i)))
            wrong = self.difference(outputs, expected)
            if wrong and i and not self.difference(outputs, rights[i - 1]):
                raise AssertionError(f"S1: batch {i}: {wrong}\n  It is batch {i - 1}'s result: the "
                                     "graph does not see the new inputs")
            if wrong:
                raise AssertionError(f"batch {i}: {wrong}\n  To learn the rule, leave `serve` out")
            if i and self.difference(kept, rights[i - 1]):
                raise AssertionError(f"S10: batch {i - 1}'s output changed when batch {i} was served: "
                                     "the next replay overwrites it, so hand out a clone")
            kept = outputs
        waited = self.must_not_wait("serve", step, *copied(self.batch(0)))
        self.serve_again(step, rights, "batch", "It was right before later batches were served")
        for rule, overwrite in (("S7", zero_free_pinned), ("S9", zero_free_device)):
            overwrite()
            self.serve_again(step, rights, f"{rule}: batch", "It was right until free memory was "
                             "overwritten: a graph reads what nobody holds")
        batches = [copied(self.batch(i)) for i in range(n)]
        if any(self.difference(step(*copied(batch)), right) for batch, right in zip(batches, rights)):
            return  # make_inputs writes what the server reads
        queue_work(waited.queued_ms * n / 4)  # twice what the host needs: all is served before any runs
        served = [copied(step(*batch)) for batch in batches]
        for i, (outputs, expected) in enumerate(zip(served, rights)):
            if wrong := self.difference(outputs, expected):
                raise AssertionError(
                    f"S8: batch {i}: {wrong}\n  It was right while the host waited for each batch, and is "
                    "wrong where the host is ahead: it rewrites what the GPU has yet to read")

    def serve_again(self, step: Callable[..., object], rights: list, named: str, why: str) -> None:
        """Give each batch to the server once more."""
        for i, right in enumerate(rights):
            if wrong := self.difference(step(*copied(self.batch(i))), right):
                raise AssertionError(f"{named} {i}: {wrong}\n  {why}")

    def replayed(self, graph: Attempt, expected: object) -> str | None:
        """Replay, and say how the outputs differ from the expected ones."""
        graph.graph.replay()
        return self.difference(graph.result, expected)

    def difference(self, found: object, expected: object) -> str | None:
        """How outputs differ from the expected ones, in one line; None if they agree.

        Outputs may have more rows than expected: a graph serves full buffers.
        """
        outputs, right = leaves(found, "output"), leaves(expected, "output")
        if len(outputs) != len(right):
            return f"there are {len(outputs)} outputs, where fn gives {len(right)}"
        for (name, got), (_, want) in zip(outputs, right):
            if not isinstance(got, Tensor) or got.dim() != want.dim():
                return f"{name} is not what fn gives eagerly, but {describe(got)}"
            try:
                torch.testing.assert_close(cut(got, want.shape), want, equal_nan=True, **self.tolerances)
            except AssertionError as unlike:
                told = [line for line in str(unlike).splitlines() if line.startswith(("Mis", "Great"))]
                return f"{name} is not what fn gives eagerly. {' '.join(told) or unlike}"
        return None

    def must_not_wait(self, name: str, step: Callable[..., object], *args: object) -> Waits:
        """What runs in every step may not stop the host."""
        waited = waits(lambda: step(*args))
        if waited.blocks_host:
            rule = name == "refresh" and attempt(lambda: step(*args)).rule or "L1 to L3"
            lines = lines_that_wait(lambda: step(*args), waited.queued_ms)
            raise AssertionError("\n  ".join([
                f"{rule}: {name} holds the host for {waited.host_ms:.1f} ms behind "
                f"{waited.queued_ms:.0f} ms of queued work", *(f"at {line}" for line in lines)]))
        return waited


@torch.inference_mode()  # the only mode that may write into tensors of every mode
def spoil(graph: Attempt, expected: object) -> None:
    """Make every element of the graph's own outputs wrong, so that it shows if one is not written.

    Outputs in other memory are left alone: another batch's values are there.
    """
    for _, out, right in pairs(graph.result, expected, "output"):
        if pool_of(out.data_ptr()) != tuple(graph.graph.pool()):
            continue
        if out.is_floating_point():
            out.fill_(float("nan"))
        elif out.dim() == right.dim():
            wrong = right.logical_not() if right.dtype == torch.bool else right + 1
            rows = tuple(slice(0, min(ours, size) if step else 1)  # an expanded row is one row
                         for ours, size, step in zip(out.shape, right.shape, out.stride()))
            out[rows].copy_(wrong[rows])
