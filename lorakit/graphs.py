"""GraphRunner: a decode function captured for a few batch sizes, and replayed for every batch.

Chapter *Static buffers and a graph runner* derives it.
"""

import bisect
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch.utils._pytree import tree_map

from lorakit.batch import require, require_size
from lorakit.capture.attempt import Attempt, attempt, capture_stream, require_gpu


def padded(fill: float | int | bool) -> dataclasses.Field:
    """A field of a `StaticInputs`: what its rows behind a batch hold, a value that does no harm."""
    return dataclasses.field(metadata={"fill": fill})


@dataclass
class StaticInputs:
    """The inputs of a decode step, one row a token. Subclass it: a `padded` field for each tensor.

    An instance may be a batch of the caller's, or the static buffers that a graph holds on to.
    """

    def __post_init__(self) -> None:
        fields = dataclasses.fields(self)
        if not fields or any("fill" not in field.metadata for field in fields):
            raise TypeError(f"each field of {type(self).__name__} must be padded(...), at least one")
        for field in fields:
            tensor = getattr(self, field.name)
            if not isinstance(tensor, torch.Tensor):
                raise TypeError(f"{field.name} must be a torch.Tensor, got {type(tensor).__name__}")
            if tensor.dim() == 0 or len(tensor) != len(self):
                raise ValueError(f"{field.name} must have {len(self)} rows, as {fields[0].name} has; "
                                 f"got shape {tuple(tensor.shape)}")

    def __len__(self) -> int:
        """Rows."""
        first = getattr(self, dataclasses.fields(self)[0].name)
        return len(first) if first.dim() else 0

    def head(self, rows: int) -> Self:
        """The first rows: the same memory, so the same addresses."""
        return dataclasses.replace(self, **{f.name: getattr(self, f.name)[:rows]
                                            for f in dataclasses.fields(self)})

    def buffers(self, rows: int) -> Self:
        """New tensors like these, of that many rows, which hold the fill."""
        return dataclasses.replace(self, **{
            f.name: torch.full((rows, *(tensor := getattr(self, f.name)).shape[1:]), f.metadata["fill"],
                               dtype=tensor.dtype, device=tensor.device)
            for f in dataclasses.fields(self)})

    @torch.inference_mode()  # no history, and buffers may be tensors of either mode
    def copy_from(self, batch: Self) -> None:
        """Write a batch into the first rows, in place, and the fill into the others.

        Does not synchronise.

        Raises:
            TypeError, ValueError: naming the field; then nothing has been written.
        """
        if type(batch) is not type(self):
            raise TypeError(f"batch must be {type(self).__name__}, got {type(batch).__name__}")
        if len(batch) > len(self):
            raise ValueError(f"batch has {len(batch)} rows, and there is room for {len(self)}")
        columns = [(field, getattr(self, field.name), getattr(batch, field.name))
                   for field in dataclasses.fields(self)]
        for field, mine, theirs in columns:
            require(theirs, field.name, mine.dtype, mine.device, shape=(len(batch), *mine.shape[1:]))
        for field, mine, theirs in columns:
            mine[:len(batch)].copy_(theirs)
            mine[len(batch):].fill_(field.metadata["fill"])


@dataclass(frozen=True)
class Borrowed:
    """Outputs that lie in the graph's own memory until the runner replays again."""

    runner: "GraphRunner"
    replay: int  # which replay wrote them
    outputs: torch.Tensor | tuple[torch.Tensor, ...]

    def read(self) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """The tensors themselves, for use before the next replay. Does not synchronise.

        Raises:
            RuntimeError: if a later replay may have overwritten them.
        """
        if self.runner.replays != self.replay:
            raise RuntimeError(f"these outputs are of replay {self.replay}, and replay "
                               f"{self.runner.replays} has been since: call the runner itself, "
                               "runner(batch), for outputs of your own")
        return self.outputs


class GraphRunner:
    """Runs `fn` for any batch of at most `max(buckets)` rows, as one graph replay.

    A batch is copied into static buffers, the rows behind it, up to the next bucket, are filled, and
    the bucket's graph is replayed. All graphs share one memory pool and one set of buffers, so one
    replay's outputs are borrowed until the next one, of whatever bucket. Temporaries share memory; each
    bucket's outputs stay: let `fn` write into a buffer of yours where that is too much.

    Args:
        fn: takes static inputs of a bucket's rows and returns a tensor, or a tuple of them, of as
            many rows, on the GPU. What else it reads (weights, ranks) must stay where it is.
        example: inputs of one row or more, for the shapes, the dtypes and the device.
        buckets: row counts to capture, in any order.

    `fn` runs twice in each bucket before the first capture: Triton compiles a variant for a size of
    1 and for multiples of 16, so the largest bucket alone would not warm up the others. Synchronises
    while it is made, and never after. Use it from one stream.

    Raises:
        TypeError, ValueError: naming the argument; also if fn returns anything else.
        RuntimeError: without a GPU, inside of a capture, or if fn cannot be captured: then with the
            rule and the line.
    """

    def __init__(self, fn: Callable, example: StaticInputs, buckets: Sequence[int]) -> None:
        require_gpu("GraphRunner", fn)
        if not isinstance(example, StaticInputs):
            raise TypeError(f"example must be a StaticInputs, got {type(example).__name__}")
        if not isinstance(buckets, Sequence) or not buckets:
            raise ValueError(f"buckets must be a sequence of at least one size, got {buckets!r}")
        for rows in buckets:
            require_size(rows, "buckets", at_least=1)
        here = torch.device("cuda", torch.cuda.current_device())
        for field in dataclasses.fields(example):
            if (device := getattr(example, field.name).device) != here:
                raise ValueError(f"example.{field.name} must be on {here}, the current GPU, "
                                 f"got {device}")
        self.fn, self.buckets, self.replays = fn, sorted(set(buckets)), 0
        static = example.buffers(self.buckets[-1])
        self.heads = {rows: static.head(rows) for rows in self.buckets}  # views of the same memory
        self.pool = torch.cuda.graph_pool_handle()
        stream = capture_stream(torch.cuda.current_device())
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for rows in self.buckets * 2:
                check_outputs(fn(self.heads[rows]), rows)
        self.graphs = {rows: self.capture(rows) for rows in reversed(self.buckets)}  # largest first

    def capture(self, rows: int) -> Attempt:
        """One bucket's graph, and its outputs."""
        captured = attempt(lambda: self.fn(self.heads[rows]), pool=self.pool)
        if captured.error:
            rule = f" ({captured.rule})" if captured.rule else ""
            raise RuntimeError(f"fn cannot be captured{rule}: {captured.error}"
                               + (f", at {captured.line}" if captured.line else ""))
        return captured

    def bucket(self, rows: int) -> int:
        """The smallest bucket that holds so many rows. Raises ValueError if none does."""
        if not 1 <= rows <= self.buckets[-1]:
            raise ValueError(f"batch has {rows} rows; the buckets take 1 to {self.buckets[-1]}")
        return self.buckets[bisect.bisect_left(self.buckets, rows)]

    def replay(self, batch: StaticInputs) -> Borrowed:
        """Run one batch. Its outputs, cut to its rows, are borrowed until the next replay.

        Does not synchronise.

        Raises:
            TypeError, ValueError: naming the field, or if no bucket is large enough; then nothing
                has changed.
            RuntimeError: inside of a capture.
        """
        require_gpu("replay", self.fn)
        if not isinstance(batch, StaticInputs):
            raise TypeError(f"batch must be a StaticInputs, got {type(batch).__name__}")
        rows = self.bucket(len(batch))
        self.heads[rows].copy_from(batch)
        graph = self.graphs[rows]
        graph.graph.replay()
        self.replays += 1
        outputs = tree_map(lambda out: out[:len(batch)].detach(), graph.result)
        return Borrowed(self, self.replays, outputs)

    def __call__(self, batch: StaticInputs) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Run one batch and return outputs of the caller's own, one copy each. As `replay`."""
        return tree_map(torch.clone, self.replay(batch).read())

    def pool_bytes(self) -> int:
        """Bytes of GPU memory that the graphs' shared pool holds. Does not synchronise."""
        return sum(segment["total_size"] for segment in torch.cuda.memory_snapshot()
                   if tuple(segment["segment_pool_id"]) == tuple(self.pool))


def check_outputs(outputs: object, rows: int) -> None:
    """Check what a decode function returned. Raises TypeError or ValueError."""
    for out in outputs if isinstance(outputs, tuple) else (outputs,):
        if not isinstance(out, torch.Tensor) or out.device.type != "cuda":
            raise TypeError("fn must return tensors on the GPU, since a replay runs no Python; got "
                            f"{out.device if isinstance(out, torch.Tensor) else type(out).__name__}")
        if out.dim() == 0 or len(out) != rows:
            raise ValueError(f"fn must return {rows} rows for {rows}, got shape {tuple(out.shape)}")
