"""Decode: lora_linear against the kernels of the serving systems, on a GPU. See contest.py."""

import sys

from benchmarks import contest, peers

SHAPES = (  # tokens, adapters, rank, mix
    (1, 8, 16, "one"), (1, 64, 64, "one"), (4, 8, 8, "uniform"), (8, 8, 16, "uniform"),
    (8, 32, 32, "distinct"), (16, 8, 64, "uniform"), (16, 16, 8, "distinct"), (32, 1, 16, "one"),
    (32, 8, 16, "uniform"), (32, 8, 16, "some"), (32, 8, 64, "zipf"), (32, 32, 16, "distinct"),
    (64, 8, 16, "zipf"), (64, 8, 64, "zipf"), (64, 32, 32, "uniform"), (64, 64, 16, "distinct"),
    (128, 16, 16, "uniform"), (128, 64, 8, "zipf"), (256, 1, 16, "one"), (256, 8, 16, "uniform"),
    (256, 64, 16, "some"))
WARM = {(1, 8, 16, "one"), (32, 8, 16, "uniform")}  # timed warm too
PEERS = [name for name in peers.PEERS if name != "sglang_csgmv_128"]  # its chunks are for prefill


def cases() -> list[dict]:
    return [{"projection": projection, **dict(zip(("tokens", "adapters", "rank", "mix"), shape)),
             "weights": weights}
            for shape in SHAPES for projection in contest.PROJECTIONS
            for weights in (("cold", "warm") if shape in WARM else ("cold",))]


def problem_of(case: dict, sets: int):
    slots = contest.slots_of(case["tokens"], case["adapters"], case["mix"])
    return contest.make(case["projection"], slots, case["adapters"], case["rank"], sets)


def main() -> int:
    return contest.compare("lora_decode", cases(), problem_of, PEERS, contest.SETS)


if __name__ == "__main__":
    sys.exit(main())
