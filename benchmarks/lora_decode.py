"""Decode: lora_linear against the kernels of the serving systems, on a GPU. See contest.py."""

import sys
from itertools import product

import torch

from benchmarks import contest, evidence, peers

SHAPES = (  # tokens, adapters, rank, mix
    (1, 8, 16, "one"), (1, 64, 64, "one"), (4, 8, 8, "uniform"), (8, 8, 16, "uniform"),
    (8, 32, 32, "distinct"), (16, 8, 64, "uniform"), (16, 16, 8, "distinct"), (32, 1, 16, "one"),
    (32, 8, 16, "uniform"), (32, 8, 16, "some"), (32, 8, 64, "zipf"), (32, 32, 16, "distinct"),
    (64, 8, 16, "zipf"), (64, 8, 64, "zipf"), (64, 32, 32, "uniform"), (64, 64, 16, "distinct"),
    (128, 16, 16, "uniform"), (128, 64, 8, "zipf"), (256, 1, 16, "one"), (256, 8, 16, "uniform"),
    (256, 64, 16, "some"))
WARM = {(1, 8, 16, "one"), (32, 8, 16, "uniform")}  # timed warm too
PEERS = [name for name in peers.PEERS if name != "sglang_csgmv_128"]  # its chunks are for prefill


def main() -> int:
    if not torch.cuda.is_available():
        print("benchmarks.lora_decode: no CUDA GPU here")
        return 1
    torch.set_grad_enabled(False)
    cases = [(*shape, projection) for shape, projection in product(SHAPES, contest.PROJECTIONS)]
    share = contest.share_to_compile()
    if share:
        compile_share(cases[share[0]::share[1]])
        return 0
    contest.compile_first("benchmarks.lora_decode", jobs=16)
    names = {n: p for n, p in contest.contenders().items() if n in ("ours", *PEERS)}
    print("tokens adapters rank mix      layer    weights    ours         floor   "
          + " ".join(n.removeprefix("sglang_")[:7].rjust(7) for n in names if n != "ours") + "   ratio")
    rows = []
    for tokens, adapters, rank, mix, projection in cases:
        problem, layers = contest.make(projection, contest.slots_of(tokens, adapters, mix), adapters, rank)
        for weights in ("cold", "warm") if (tokens, adapters, rank, mix) in WARM else ("cold",):
            row = {"projection": projection, "tokens": tokens, "adapters": adapters, "rank": rank,
                   "mix": mix, "weights": weights}
            row |= contest.row_of(problem, layers, names, cold=weights == "cold")
            rows.append(row)
            print(f"{tokens:6} {adapters:8} {rank:4} {mix:8} {projection:8} {weights}  "
                  + contest.describe(row), flush=True)
    contest.summary([row for row in rows if row["weights"] == "cold"])
    path = evidence.write("lora_decode", rows, calls_in_a_graph=contest.SETS, repeats=contest.REPEATS,
                          spread="distance between the quartiles", peers=peers.versions(),
                          error="of the norm, against float64", absent=peers.absent())
    print("written:", path.relative_to(evidence.ROOT))
    return 0


def compile_share(cases: list[tuple]) -> None:
    """Each contender once, on one set of weights."""
    absent = peers.absent()
    for tokens, adapters, rank, mix, projection in cases:
        problem, layers = contest.make(projection, contest.slots_of(tokens, adapters, mix), adapters,
                                       rank, sets=1)
        out = torch.zeros(tokens, problem.offsets[-1], **contest.BF16)
        for prepare in (contest.ours, *(peers.PEERS[n] for n in PEERS if n not in absent)):
            try:
                prepare(problem, layers, out)[0]()
            except ValueError:
                pass
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
