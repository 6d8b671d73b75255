"""What the comparisons share: problems, a float64 answer, the contenders, and one way to time them.

Each contender gets the same tensors and the same graph: one call a set of weights, 16 sets, in one
stream, replayed behind a read of more memory than the L2 cache holds. So weights come from memory,
as between the layers of a model. What a server computes once a step (routing, plans) is not timed,
for nobody. Each is checked against float64 in the same run.
"""

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch

from benchmarks import evidence, peers, table
from lorakit import NO_ADAPTER, LoRABatchInfo, slots_to_device, timing
from lorakit.adapters import LoRAWeights
from lorakit.ops import lora_linear
from lorakit.routing import route_by_adapter, route_by_request

PROJECTIONS = {  # of Llama-3.1-8B: hidden size, slice sizes
    "qkv": (4096, (4096, 1024, 1024)),
    "o": (4096, (4096,)),
    "gate_up": (4096, (14336, 14336)),
    "down": (14336, (4096,)),
}
SETS, REPEATS = 16, 15
TOLERANCE = 4e-3  # of the norm; rounding a bfloat16 output once costs 1.7e-3
BF16 = {"dtype": torch.bfloat16, "device": "cuda"}


def slots_of(tokens: int, adapters: int, mix: str) -> list[int]:
    """A batch on the host. In the mix "some" one token in four has no adapter."""
    rng = random.Random(tokens * 1000 + adapters)
    if mix == "one":
        return [adapters - 1] * tokens
    if mix == "distinct":
        return [token % adapters for token in range(tokens)]
    skew = 1.5 if mix == "zipf" else 0.0
    slots = rng.choices(range(adapters), [(slot + 1) ** -skew for slot in range(adapters)], k=tokens)
    return [NO_ADAPTER if mix == "some" and rng.random() < 0.25 else slot for slot in slots]


def make(projection: str | tuple[int, tuple[int, ...]], slots: Sequence[int], adapters: int, rank: int,
         sets: int = SETS, lens: tuple[int, ...] | None = None) -> tuple[peers.Problem, list[LoRAWeights]]:
    """One problem, and as many sets of random weights. A projection is one of PROJECTIONS, or sizes."""
    hidden, sizes = PROJECTIONS[projection] if isinstance(projection, str) else projection
    layers = [LoRAWeights(torch.randn(adapters, len(sizes), rank, hidden, **BF16) / hidden**0.5,
                          torch.randn(adapters, sum(sizes), rank, **BF16) / rank**0.5, sizes)
              for _ in range(sets)]
    problem = peers.Problem(
        x=torch.randn(len(slots), hidden, **BF16), slots=tuple(slots), slice_sizes=sizes, rank=rank,
        max_loras=adapters, lens=lens,
        scalings=torch.linspace(0.5, 2.0, adapters, dtype=torch.float32, device="cuda"))
    return problem, layers


def batch_of(problem: peers.Problem) -> LoRABatchInfo:
    """Our metadata: by adapter in decode, by request in prefill."""
    ranks = problem.ints([problem.rank] * problem.max_loras)
    if problem.lens is None:
        slots = slots_to_device(problem.slots, problem.max_loras, problem.x.device)
        return route_by_adapter(slots, ranks, problem.scalings)
    starts = [sum(problem.lens[:i]) for i in range(len(problem.lens))]
    owners = slots_to_device([problem.slots[start] for start in starts], problem.max_loras,
                             problem.x.device)
    return route_by_request(owners, problem.ints(problem.lens), max(problem.lens), ranks,
                            problem.scalings)


def ours(problem: peers.Problem, layers: list[LoRAWeights], out: torch.Tensor) -> peers.Calls:
    """lorakit, as a peer."""
    batch = batch_of(problem)
    return [partial(lora_linear, problem.x, layer, batch, out) for layer in layers]


def truth(problem: peers.Problem, layer: LoRAWeights, base: torch.Tensor) -> torch.Tensor:
    """base + LoRA in float64, on the GPU, one adapter and slice at a time."""
    x, out = problem.x.double(), base.double()
    owners = torch.tensor(problem.slots, device=x.device)
    for slot in sorted(set(problem.slots) - {NO_ADAPTER}):
        rows = (owners == slot).nonzero()[:, 0]
        for s, (start, end) in enumerate(pairwise(problem.offsets)):
            h = x[rows] @ layer.lora_a[slot, s].double().t()
            out[rows, start:end] += problem.scalings[slot].double() * (
                h @ layer.lora_b[slot, start:end].double().t())
    return out


def floor_us(problem: peers.Problem, base_weights: bool = False) -> float:
    """Bytes that must move, over the bandwidth of a copy: A and B of the adapters in use, x, and the
    output, which is read and written; with `base_weights` W too, and the output is only written.
    """
    used, hidden, outputs = set(problem.slots) - {NO_ADAPTER}, problem.x.shape[1], problem.offsets[-1]
    rows = sum(slot != NO_ADAPTER for slot in problem.slots)
    values = len(used) * problem.rank * (hidden * len(problem.slice_sizes) + outputs)
    values += problem.x.numel() if base_weights else rows * hidden
    values += len(problem.slots) * outputs + hidden * outputs if base_weights else 2 * rows * outputs
    return 2 * values / timing.copy_bytes_per_us(torch.cuda.current_device())


def timed(prepare: Callable, problem: peers.Problem, layers: list[LoRAWeights], cold: bool = True,
          repeats: int = REPEATS) -> tuple[float, float, float]:
    """Median microseconds of a call, the quartiles' distance, and the error of the first call."""
    base = torch.randn(len(problem.slots), problem.offsets[-1], **BF16)
    out = base.clone()
    calls = prepare(problem, layers, out)
    calls[0]()
    expected = truth(problem, layers[0], base)
    error = float((out.double() - expected).norm() / expected.norm())
    if not cold:
        calls = calls[:1] * len(layers)
    return *timing.graph_us(calls, repeats, cold), error


def contenders() -> dict[str, Callable]:
    """Ours first, then the peers that are here. Those that are not are named, with the reason."""
    absent = peers.absent()
    for name, reason in absent.items():
        print(f"absent: {name} ({reason})")
    return {"ours": ours, **{n: p for n, p in peers.PEERS.items() if n not in absent}}


def row_of(problem: peers.Problem, layers: list[LoRAWeights], names: dict[str, Callable],
           cold: bool = True) -> dict:
    """One case: everybody checked and timed. A contender that refuses or is wrong is left out."""
    row = {"ours_us": None, "spread_us": None, "peers": {}, "floor_us": round(floor_us(problem), 2)}
    for name, prepare in names.items():
        try:
            us, spread, error = timed(prepare, problem, layers, cold)
        except Exception as refusal:  # a rank that a peer does not take, or copies that would be too large
            if name == "ours":
                raise
            print(f"  {name} left out: {(str(refusal).splitlines() or [type(refusal).__name__])[0][:90]}")
            continue
        if name == "ours":
            assert error < TOLERANCE, f"our error is {error:.1e}"
            row |= {"ours_us": round(us, 2), "spread_us": round(spread, 2), "error": float(f"{error:.1e}")}
        elif error < TOLERANCE:
            row["peers"][name] = round(us, 2)
        else:
            print(f"  {name} left out: its error is {error:.1e}")
    return row


def compile_first(module: str, jobs: int = 16) -> None:
    """Run the module's cases once each in several processes, which fill Triton's cache on the disk:
    compiling one after the other would take most of the time. Nothing is timed in them.
    """
    start, workers = time.perf_counter(), max(1, min(jobs, (os.cpu_count() or 1) - 1))
    commands = [[sys.executable, "-m", module, "--compile", f"{i}/{workers}"] for i in range(workers)]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    for process in running:
        process.wait()
    print(f"compiled by {workers} processes in {time.perf_counter() - start:.0f} s", flush=True)


def share_to_compile() -> tuple[int, int] | None:
    """(i, workers) if this process was started by `compile_first`."""
    if "--compile" not in sys.argv:
        return None
    return tuple(map(int, sys.argv[sys.argv.index("--compile") + 1].split("/")))


def compare(name: str, cases: list[dict], problem_of: Callable[[dict, int], tuple], who: Sequence[str],
            sets: int, meets: Callable[[dict, str], bool] = lambda case, peer: True) -> int:
    """One comparison from compiling to its result file: each case a row, checked, timed and printed.

    Args:
        name: of the module in benchmarks, and of the file in benchmarks/results.
        cases: what a row says of its case: projection, tokens, rank, weights ("cold" or "warm") and others.
        problem_of: of a case and a number of sets, the problem and as many sets of weights.
        who: names of peers. Those that are absent are left out, and named.
        sets: calls in a graph, each with weights of its own.
        meets: whether a peer takes part in a case.

    Returns:
        0, or 1 without a GPU.
    """
    if not torch.cuda.is_available():
        print(f"benchmarks.{name}: no CUDA GPU here")
        return 1
    torch.set_grad_enabled(False)
    share = share_to_compile()
    if share:
        compile_share(cases[share[0]::share[1]], problem_of, who, meets)
        return 0
    compile_first(f"benchmarks.{name}")
    names = {n: p for n, p in contenders().items() if n in ("ours", *who)}
    keys = list(cases[0])
    widths = {key: max(len(str(case[key])) for case in [*cases, {key: key}]) for key in keys}
    print(" ".join(key.ljust(widths[key]) for key in keys) + "    ours         floor   "
          + " ".join(n.removeprefix("sglang_")[:7].rjust(7) for n in names if n != "ours") + "   ratio")
    rows = []
    for case in cases:
        problem, layers = problem_of(case, sets)
        met = {n: p for n, p in names.items() if n == "ours" or meets(case, n)}
        rows.append({**case, **row_of(problem, layers, met, cold=case["weights"] == "cold")})
        print(" ".join(str(case[key]).ljust(widths[key]) for key in keys) + " " + describe(rows[-1]),
              flush=True)
    summary([row for row in rows if row["weights"] == "cold"])
    path = evidence.write(name, rows, calls_in_a_graph=sets, repeats=REPEATS, peers=peers.versions(),
                          spread="distance between the quartiles", absent=peers.absent(),
                          error="of the norm, against float64")
    print("written:", path.relative_to(evidence.ROOT))
    return 0


def compile_share(cases: list[dict], problem_of: Callable, who: Sequence[str], meets: Callable) -> None:
    """Each contender once, on one set of weights."""
    absent = peers.absent()
    for case in cases:
        problem, layers = problem_of(case, 1)
        out = torch.zeros(len(problem.slots), problem.offsets[-1], **BF16)
        for prepare in (ours, *(peers.PEERS[n] for n in who if n not in absent and meets(case, n))):
            try:
                prepare(problem, layers, out)[0]()
            except Exception:  # the run itself says who is left out, and why
                pass
    torch.cuda.synchronize()


def describe(row: dict) -> str:
    """The end of a table's line: our time, the floor, each peer's, and the ratio to the best."""
    best = min(row["peers"].values(), default=float("nan"))
    return (f"{row['ours_us']:7.2f} ±{row['spread_us']:5.2f} {row['floor_us']:7.2f}  "
            + " ".join(f"{us:7.1f}" for us in row["peers"].values()) + f"  {best / row['ours_us']:6.2f}")


def summary(rows: list[dict]) -> None:
    """The geometric mean of best peer over ours, and the worst cases."""
    ratios = [table.ratio(row) for row in rows if row["peers"]]
    if ratios:
        mean, losses = statistics.geometric_mean(ratios), sum(ratio < 1 for ratio in ratios)
        print(f"best peer / ours: geometric mean {mean:.2f}, least {min(ratios):.2f}, "
              f"slower in {losses} of {len(ratios)} cases")
