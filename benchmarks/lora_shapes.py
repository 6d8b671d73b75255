"""Decode at shapes that no rule was chosen on: other models' layers, odd ones, other ranks. See contest.py."""

import sys
from itertools import product

import torch

from benchmarks import contest, evidence, peers

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
ALIGNED = ("sglang_triton", "sglang_csgmv", "sglang_triton_v2", "vllm")  # not for odd sizes: they need not take them


def main() -> int:
    if not torch.cuda.is_available():
        print("benchmarks.lora_shapes: no CUDA GPU here")
        return 1
    torch.set_grad_enabled(False)
    cases, share, absent = list(product(BATCHES, LAYERS)), contest.share_to_compile(), peers.absent()
    if share:
        for (tokens, adapters, rank, mix), layer in cases[share[0]::share[1]]:
            problem, layers = contest.make(LAYERS[layer], contest.slots_of(tokens, adapters, mix),
                                           adapters, rank, sets=1)
            out = torch.zeros(tokens, problem.offsets[-1], **contest.BF16)
            for prepare in (contest.ours, *(peers.PEERS[n] for n in ALIGNED
                                            if n not in absent and layer != "odd")):
                prepare(problem, layers, out)[0]()
        return 0
    contest.compile_first("benchmarks.lora_shapes", jobs=12)
    names = {n: p for n, p in contest.contenders().items() if n in ("ours", "gather_bmm", *ALIGNED)}
    print("tokens adapters rank mix      layer                 ours         floor   "
          + " ".join(n.removeprefix("sglang_")[:7].rjust(7) for n in names if n != "ours") + "   ratio")
    rows = []
    for (tokens, adapters, rank, mix), layer in cases:
        problem, layers = contest.make(LAYERS[layer], contest.slots_of(tokens, adapters, mix), adapters,
                                       rank, SETS)
        met = {n: p for n, p in names.items() if n not in ALIGNED or layer != "odd"}
        row = {"projection": layer, "tokens": tokens, "adapters": adapters, "rank": rank, "mix": mix,
               "weights": "cold", **contest.row_of(problem, layers, met)}
        rows.append(row)
        print(f"{tokens:6} {adapters:8} {rank:4} {mix:8} {layer:18} {contest.describe(row)}", flush=True)
    contest.summary(rows)
    path = evidence.write("lora_shapes", rows, calls_in_a_graph=SETS, repeats=contest.REPEATS,
                          spread="distance between the quartiles", peers=peers.versions(),
                          error="of the norm, against float64", absent=absent)
    print("written:", path.relative_to(evidence.ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
