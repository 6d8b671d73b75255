"""Prefill: lora_linear against the kernels of the serving systems, on a GPU. See contest.py."""

import sys

from benchmarks import contest, peers

SHAPES = ((512, 1, 16), (1024, 4, 16), (2048, 8, 16), (4096, 4, 16), (4096, 8, 64))  # tokens, requests, rank
SETS = 6
PEERS = [name for name in peers.PEERS if name != "gather_bmm"]  # its copies take megabytes a token


def cases() -> list[dict]:
    return [{"projection": projection, **dict(zip(("tokens", "requests", "rank"), shape)), "weights": "cold"}
            for shape in SHAPES for projection in contest.PROJECTIONS]


def problem_of(case: dict, sets: int):
    """One request an adapter, all of one length."""
    requests = case["requests"]
    lens = (case["tokens"] // requests,) * requests
    slots = [slot for slot, length in enumerate(lens) for _ in range(length)]
    return contest.make(case["projection"], slots, requests, case["rank"], sets, lens)


def main() -> int:
    return contest.compare("lora_prefill", cases(), problem_of, PEERS, SETS)


if __name__ == "__main__":
    sys.exit(main())
