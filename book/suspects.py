"""Ten small servers, each with one fault of this book in at most twenty lines.

All inherit from the sound server of book/lineup.py. Whatever a graph reads is held by the server, but
for what `Recycled` and `Pool` drop on purpose. Two faults are races, which `queue_work` makes certain.
"""

import functools
from collections.abc import Sequence

import torch

from book import detective as d
from book.lineup import (
    GROUPS, MAX_LORAS, MAX_TOKENS, Server, busy, captured, ints, pinned, settle)
from lorakit import NO_ADAPTER, StaticLoRABatchInfo, runtime, slots_to_device
from lorakit.routing import route_by_adapter

NOBODY = -2  # neither a slot nor the base model
WINDOW_MS = 20.0  # other work of the GPU, before a copy that ought to be done


class Grid(Server):
    """Launches a program for each group of the batch at hand: in the capture, for one."""
    rule = "S3"

    def step(self) -> None:
        self.lora(self.groups, self.out.zero_())


class Group(Server):
    """A graph for each number of adapters. It forgets that rows of the base model are a group too."""
    rule = "S3"

    def step(self, groups: int | None = None) -> None:
        self.lora(groups or self.groups, self.out.zero_())

    def capture(self) -> None:
        self.graph = {n: captured(lambda n=n: self.step(n)) for n in (1, 2, 4)}

    def replay(self) -> None:
        self.graph[min(n for n in self.graph if n >= self.adapters)].graph.replay()


class Branch(Server):
    """LoRA only if the batch has an adapter. The captured batch has none."""
    rule, dummy = "S4", [NO_ADAPTER] * MAX_TOKENS

    def step(self) -> None:
        self.out.zero_()
        if self.adapters:
            self.lora(GROUPS, self.out)


class Rank(Server):
    """A new tensor of ranks for each batch. The graph reads the dummy's, and NaN behind rank 8."""
    rule = "S14"

    def prepare(self) -> None:
        self.kept = []  # else another tensor may get the address: S9
        for matrix in (self.weights.lora_a[1::2, :, 8:], self.weights.lora_b[1::2, :, 8:]):
            matrix.fill_(float("nan"))  # these ranks are nobody's, and may hold anything

    def refresh(self, slots: Sequence[int]) -> None:
        super().refresh(slots)
        self.kept.append(self.ranks)
        self.ranks = ints(MAX_LORAS)
        d.write(self.ranks, [16] * MAX_LORAS if slots is self.dummy else [16, 8, 16, 8])


class Tail(Server):
    """Counts the rows of each group, with rows that an earlier, larger batch has left."""
    rule = "S13"

    def prepare(self) -> None:
        self.slots = ints(MAX_TOKENS)
        self.indptr[0:1].zero_()
        d.write(self.ids, range(NO_ADAPTER, MAX_LORAS))

    def refresh(self, slots: Sequence[int]) -> None:
        self.rows = len(slots)
        order = sorted(range(self.rows), key=slots.__getitem__)
        d.write(self.slots, slots)
        d.write(self.permutation, [*order, *range(self.rows, MAX_TOKENS)])

    def step(self) -> None:
        mine = self.slots[:self.rows, None] == self.ids  # in the capture: all eight rows
        torch.cumsum(mine.sum(dim=0, dtype=torch.int32), dim=0, out=self.indptr[1:])
        super().step()

    def capture(self) -> None:
        super().capture()
        self.slots.fill_(NOBODY)  # cleared once, when the server starts


class First(Server):
    """Keeps the routing kernel that its first request compiled: for one token, if it came alone."""
    rule = "S15"

    def prepare(self) -> None:
        import triton
        from lorakit.kernels.route import route_kernel
        self.kernel, self.kept, self.lens = triton.jit(route_kernel.fn), None, ints(MAX_LORAS)

    def refresh(self, slots: Sequence[int]) -> None:
        if slots is self.dummy:
            return super().refresh(slots)
        self.given = slots_to_device(slots, MAX_LORAS, runtime.device())
        args = (self.given, self.ranks, self.scalings, self.lens, self.indptr, self.permutation,
                self.ids, self.ranks, self.scalings, len(slots), MAX_LORAS, False, False, 32)
        if self.kept:
            self.kept[(GROUPS, 1, 1)](*args)
        else:  # the interpreter compiles nothing
            self.kept = self.kernel[(GROUPS,)](*args, num_warps=1)


class Staging(Server):
    """Rewrites its pinned buffer while the copy of the step before waits in the queue."""
    rule, window_ms = "S8", WINDOW_MS

    def prepare(self) -> None:
        self.slots, self.staging = ints(MAX_TOKENS), pinned(ints(MAX_TOKENS))
        self.static = StaticLoRABatchInfo.empty(MAX_TOKENS, MAX_LORAS, runtime.device())

    def refresh(self, slots: Sequence[int]) -> None:
        self.staging[:len(slots)] = torch.tensor(slots)
        busy(self.window_ms)
        self.slots.copy_(self.staging, non_blocking=True)

    def step(self) -> None:
        from lorakit.ops import lora_linear
        route_by_adapter(self.slots, self.ranks, self.scalings, out=self.static)
        lora_linear(self.x, self.weights, self.static, self.out.zero_())


@functools.cache
def loader() -> torch.cuda.Stream | None:
    """The stream that loads adapters; never the stream of a capture. None: the current one."""
    return torch.cuda.Stream(priority=-1) if torch.cuda.is_available() else None


class Early(Server):
    """Loads an adapter on a side stream, and serves with it before it is there."""
    rule, dummy = "none", [NO_ADAPTER] * MAX_TOKENS

    def prepare(self) -> None:
        self.sources = [[pinned(m[0]) for m in d.adapter(10 * (i + 1))] for i in range(MAX_LORAS)]
        self.weights.lora_b.zero_()
        self.loaded = {NO_ADAPTER}

    def refresh(self, slots: Sequence[int]) -> None:
        with torch.cuda.stream(loader()):
            for slot in sorted({*slots} - self.loaded):
                busy(WINDOW_MS)
                for weights, source in zip((self.weights.lora_a[slot, 0], self.weights.lora_b[slot]),
                                           self.sources[slot]):
                    weights.copy_(source, non_blocking=True)
                self.loaded.add(slot)
        super().refresh(slots)


class Recycled(Server):
    """Its graph reads a pinned table that the host has dropped. A prompt of a new length takes it."""
    rule = "S7"

    def prepare(self) -> None:
        self.table, self.prompts = pinned(torch.ones(1024)), {}

    def refresh(self, slots: Sequence[int]) -> None:
        super().refresh(slots)
        if len(slots) not in self.prompts:  # token ids, -1 for none. Read as a float, -1 is NaN
            self.prompts[len(slots)] = [pinned(torch.full((1024,), -1).int()) for _ in range(32)]

    def step(self) -> None:
        self.scalings.copy_(self.table[:MAX_LORAS], non_blocking=True)
        super().step()

    def replay(self) -> None:
        super().replay()
        settle()
        self.table = None  # no line of Python needs it any more


class Pool(Server):
    """Target, draft and head: three graphs in one pool. Nobody holds what the head still reads."""
    rule = "S11"

    def target(self) -> torch.Tensor:
        return self.lora(GROUPS, torch.zeros_like(self.out))

    def draft(self) -> torch.Tensor:
        return self.lora(GROUPS, torch.full_like(self.out, 500))

    def step(self) -> None:
        self.out.copy_(self.target())

    def capture(self) -> None:
        pool = torch.cuda.graph_pool_handle()
        target = captured(self.target, pool)
        hidden, target.result = target.result, None
        head = captured(lambda: self.out.copy_(hidden), pool)
        del hidden
        self.graph = [target, captured(self.draft, None if self.own_pool else pool), head]

    def replay(self) -> None:
        for graph in self.graph:
            graph.graph.replay()


SUSPECTS = (Grid, Group, Branch, Rank, Tail, First, Staging, Early, Recycled, Pool)
