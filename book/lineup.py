"""A sound server of one layer, nine experiments, and what they make of ten broken ones.

`tried` starts a server, sends it batches, and says what is wrong with its answers. The broken servers
are in book/suspects.py. *Garbled, cause unknown* draws a matrix from both.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import torch

from book import detective as d
from lorakit import NO_ADAPTER, LoRABatchInfo, runtime
from lorakit.capture import attempt
from lorakit.capture.attempt import Attempt
from lorakit.timing import queue_work

MAX_TOKENS, MAX_LORAS = 8, 4
GROUPS = MAX_LORAS + 1  # one for each adapter, and one for the base model's rows


class Server:
    """Sorts a batch into groups on the host. Its graph serves as many groups as there can be.

    Args:
        graph: replay a graph of `step`, or run it eagerly.
        wait: let the GPU finish what it is given before the host goes on.
        own_pool: where there are several graphs, a memory pool of its own for one of them.
    """

    rule, dummy = "", [0] * MAX_TOKENS  # dummy: the batch that is captured

    def __init__(self, graph: bool = True, wait: bool = False, own_pool: bool = False) -> None:
        self.wait, self.own_pool, self.graph = wait, own_pool, None
        self.weights, self.x = d.weights(MAX_LORAS), d.tokens(MAX_TOKENS)
        self.out = d.nothing(MAX_TOKENS)
        self.ranks, self.scalings = d.ranks(MAX_LORAS), d.scalings(MAX_LORAS)
        self.indptr, self.ids, self.permutation = ints(GROUPS + 1), ints(GROUPS), ints(MAX_TOKENS)
        stock()
        self.prepare()
        self.refresh(self.dummy)
        self.step()
        if graph:
            self.capture()
        settle()

    def prepare(self) -> None:
        """What a broken server needs besides."""

    def refresh(self, slots: Sequence[int]) -> None:
        """Write a batch into the buffers. The groups behind it are empty."""
        ids = sorted(set(slots))  # NO_ADAPTER comes first
        ends = [0, *itertools.accumulate(slots.count(slot) for slot in ids)]
        self.groups, self.adapters = len(ids), len({*ids} - {NO_ADAPTER})
        d.write(self.indptr, ends + ends[-1:] * (GROUPS - len(ids)))
        d.write(self.ids, ids + [NO_ADAPTER] * (GROUPS - len(ids)))
        d.write(self.permutation, sorted(range(len(slots)), key=slots.__getitem__))

    def lora(self, groups: int, out: torch.Tensor) -> torch.Tensor:
        """LoRA for the first groups, added into out."""
        from lorakit.ops import lora_linear  # needs Triton
        return lora_linear(self.x, self.weights, LoRABatchInfo(
            bs=groups, use_cuda_graph=True, num_segments=groups, seg_lens=self.ids[:groups],
            seg_indptr=self.indptr[:groups + 1], max_len=MAX_TOKENS, weight_indices=self.ids[:groups],
            lora_ranks=self.ranks, scalings=self.scalings, permutation=self.permutation), out)

    def step(self) -> None:
        self.lora(GROUPS, self.out.zero_())

    def capture(self) -> None:
        self.graph = captured(self.step)

    def replay(self) -> None:
        self.graph.graph.replay()

    def run(self, slots: Sequence[int]) -> torch.Tensor:
        """Serve one batch. The host does not wait, unless the server is told to."""
        self.refresh(slots)
        if self.wait:
            settle()
        self.replay() if self.graph else self.step()
        if self.wait:
            settle()
        return self.out[:len(slots)].clone()

    def serve(self, *batches: Sequence[int]) -> list[list]:
        """Serve batches, one at once after the other; then read what was added to each token."""
        outputs = [self.run(slots) for slots in batches]
        settle()
        return [seen(out) for out in outputs]


def captured(step: Callable[[], object], pool: tuple[int, int] | None = None) -> Attempt:
    """A graph of step(), warm."""
    graph = attempt(step, pool=pool)
    assert graph.graph, graph.error
    return graph


def ints(size: int) -> torch.Tensor:
    """(size,) int32 on the device."""
    return torch.full((size,), NO_ADAPTER, dtype=torch.int32, device=runtime.device())


def pinned(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the host, in pinned memory if there is a GPU."""
    return tensor.cpu().pin_memory() if torch.cuda.is_available() else tensor.cpu().clone()


@functools.cache
def stock() -> None:
    """Pinned memory for many small writes, once: to make more may wait for the GPU, and hide a race."""
    _ = [pinned(ints(size)) for size in (1, 2, 4, 8) for _ in range(64)]


def busy(ms: float) -> None:
    """Keep the current stream busy, if there is a GPU."""
    if torch.cuda.is_available():
        queue_work(ms)


def settle() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seen(out: torch.Tensor) -> list:
    """`detective.read`, with "!" for a token that is NaN."""
    nan = out.isnan().any(dim=1).tolist()
    return ["!" if bad else value for bad, value in zip(nan, d.read(out.nan_to_num(0.0)))]


# -- experiments ----------------------------------------------------------------------------------------

ALONE, AGAIN, OTHER = [0], [1, -1, 0, 1, 0], [3, 1, -1, 2, 0]
LATER = [[0, 1, 2, 3, -1, 0, 1, 2], [1, -1, 0, 1, 0], [2, 2, 3], [3, 0, -1, 2, 1, 1]]
ONE = [[0], [0] * 8, [0] * 5, [0] * 3]
LORA_ONLY = [[0], [0, 1, 2, 3, 3, 0, 1, 2], [1, 2, 0, 1, 0], [2, 2, 3], [3, 0, 3, 2, 1, 1]]
FULL = [LATER[0], [1, 1, -1, 0, 0, 1, -1, 0], [2, 2, 3, 3, 2, 2, 3, 3], [3, 0, -1, 2, 1, 1, 0, 2]]

SYMPTOM = "as it is"
EXPERIMENTS = {  # name -> how the server is started, and what it is sent, call after call
    SYMPTOM: ({}, [[ALONE, *LATER]]),
    "graphs off": ({"graph": False}, [[ALONE, *LATER]]),
    "one adapter": ({}, [ONE]),
    "no base rows": ({}, [LORA_ONLY]),
    "one batch, again": ({}, [[AGAIN]] * 3),
    "a wait": ({"wait": True}, [[ALONE, *LATER]]),
    "another first": ({}, [[OTHER, *LATER]]),
    "full batches": ({}, [FULL]),
    "own pool": ({"own_pool": True}, [[ALONE, *LATER]]),
}
RIGHT, BASE, OTHERS, NAN = "right", "base", "other", "NaN"


def tried(server: type[Server], experiment: str) -> str:
    """What is wrong with the answers of the last call, or RIGHT.

    BASE: all wrong tokens have the base model's output. OTHERS: some have another one. NAN: some are
    NaN. Without a GPU: what was recorded of this server, or of the one that it inherits from.
    """
    if runtime.device().type == "cuda":
        return measured(server, experiment)
    known = [cls.__name__ for cls in server.__mro__ if cls.__name__ in SIGNATURES]
    return SIGNATURES[known[0]][experiment] if known else RIGHT


def measured(server: type[Server], experiment: str) -> str:
    """Start the server, send it the batches, and look at the last answers."""
    given, calls = EXPERIMENTS[experiment]
    started = server(**given)
    for call in calls:
        answers = started.serve(*call)
    wrong = [got for slots, answer in zip(call, answers)
             for got, want in zip(answer, d.expected(slots)) if got != want]
    return RIGHT if not wrong else NAN if "!" in wrong else OTHERS if any(wrong) else BASE


def signatures(**letters: str) -> dict[str, dict[str, str]]:
    """Server -> experiment -> outcome, from a letter for each."""
    outcomes = {".": RIGHT, "b": BASE, "o": OTHERS, "N": NAN}
    return {name: dict(zip(EXPERIMENTS, map(outcomes.get, said.split()), strict=True))
            for name, said in letters.items()}


# In the order of EXPERIMENTS. As recorded on an H200, and tested wherever there is a GPU.
SIGNATURES = signatures(
    Grid="     b . . b b b b b b",
    Group="    b . . . b b b b b",
    Branch="   b . b b b b b b b",
    Rank="     N . . N N N N N N",
    Tail="     o . . o . o o . o",
    First="    b b b b . b . . b",
    Staging="  o o . o . . o o o",
    Early="    b b b b . . b b b",
    Recycled=" N . N N . N N . N",
    Pool="     o . o o o o o o .",
)


def bits(outcomes: Sequence[object]) -> float:
    """What an experiment tells about who it was: the entropy of its outcomes over the suspects left."""
    shares = [outcomes.count(outcome) / len(outcomes) for outcome in set(outcomes)]
    return sum(share * math.log2(1 / share) for share in shares)
