"""Prefill: lora_linear against the kernels of the serving systems, on a GPU. See contest.py."""

import sys
from itertools import product

import torch

from benchmarks import contest, evidence, peers

SHAPES = ((512, 1, 16), (1024, 4, 16), (2048, 8, 16), (4096, 4, 16), (4096, 8, 64))  # tokens, adapters, rank
SETS = 6


def problem_of(tokens: int, adapters: int, rank: int, projection: str, sets: int):
    """One request an adapter, all of one length."""
    lens = (tokens // adapters,) * adapters
    slots = [slot for slot, length in enumerate(lens) for _ in range(length)]
    return contest.make(projection, slots, adapters, rank, sets, lens)


def main() -> int:
    if not torch.cuda.is_available():
        print("benchmarks.lora_prefill: no CUDA GPU here")
        return 1
    torch.set_grad_enabled(False)
    cases = [(*shape, projection) for shape, projection in product(SHAPES, contest.PROJECTIONS)]
    share, absent = contest.share_to_compile(), peers.absent()
    if share:
        for tokens, adapters, rank, projection in cases[share[0]::share[1]]:
            problem, layers = problem_of(tokens, adapters, rank, projection, sets=1)
            out = torch.zeros(tokens, problem.offsets[-1], **contest.BF16)
            for prepare in (contest.ours, *(p for n, p in peers.PEERS.items()
                                            if n not in absent and n != "gather_bmm")):
                prepare(problem, layers, out)[0]()
        return 0
    contest.compile_first("benchmarks.lora_prefill", jobs=10)
    names = {n: p for n, p in contest.contenders().items() if n != "gather_bmm"}  # gigabytes a token
    print("tokens requests rank layer      ours          floor   "
          + " ".join(n.removeprefix("sglang_")[:7].rjust(7) for n in names if n != "ours") + "   ratio")
    rows = []
    for tokens, adapters, rank, projection in cases:
        problem, layers = problem_of(tokens, adapters, rank, projection, SETS)
        row = {"projection": projection, "tokens": tokens, "requests": adapters, "rank": rank,
               "weights": "cold", **contest.row_of(problem, layers, names)}
        rows.append(row)
        print(f"{tokens:6} {adapters:8} {rank:4} {projection:8} {contest.describe(row)}", flush=True)
    contest.summary(rows)
    path = evidence.write("lora_prefill", rows, calls_in_a_graph=SETS, repeats=contest.REPEATS,
                          spread="distance between the quartiles", peers=peers.versions(),
                          error="of the norm, against float64", absent=absent)
    print("written:", path.relative_to(evidence.ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
