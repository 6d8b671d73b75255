"""Decode at shapes that no rule was chosen on: other models' layers, odd ones, other ranks. See
contest.py.
"""

import sys

from benchmarks import contest, lora_decode

LAYERS = {  # hidden size, slice sizes
    "Qwen2.5-7B qkv": (3584, (3584, 512, 512)),
    "Qwen2.5-7B gate_up": (3584, (18944, 18944)),
    "Llama-3.1-70B qkv": (8192, (8192, 1024, 1024)),
    "Llama-3.1-70B down": (28672, (8192,)),
    "Phi-2 fc1": (2560, (10240,)),
    "odd": (2049, (1077,)),
}
BATCHES = ((5, 8, 12, "uniform"), (24, 8, 20, "uniform"), (48, 16, 48, "zipf"), (100, 8, 128, "some"))
SETS = 8


def cases() -> list[dict]:
    return [{"projection": layer, **dict(zip(("tokens", "adapters", "rank", "mix"), batch)), "weights": "cold"}
            for batch in BATCHES for layer in LAYERS]


def problem_of(case: dict, sets: int):
    return lora_decode.problem_of({**case, "projection": LAYERS[case["projection"]]}, sets)


def meets(case: dict, peer: str) -> bool:
    """The servers' kernels need not take odd sizes."""
    return case["projection"] != "odd" or peer == "gather_bmm"


def main() -> int:
    return contest.compare("lora_shapes", cases(), problem_of, lora_decode.PEERS, SETS, meets)


if __name__ == "__main__":
    sys.exit(main())
