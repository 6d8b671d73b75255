"""One decoder layer's four projections, base GEMM and LoRA together, on a GPU.

What a user feels: the time of all four linear layers with LoRA over cuBLAS's time without. A graph
holds two layers with weights of their own, which together exceed the L2 cache many times.
"""

import sys
from collections.abc import Callable
from functools import partial

import torch

from benchmarks import contest, evidence, peers
from lorakit import timing
from lorakit.ops import fuses, linear_with_lora

SHAPES = ((1, 8, 16, "one"), (8, 8, 16, "uniform"), (16, 8, 16, "uniform"), (32, 8, 16, "uniform"),
          (32, 32, 16, "distinct"), (32, 8, 64, "zipf"), (64, 8, 16, "uniform"))
LAYERS = 2


def measure(tokens: int, adapters: int, rank: int, mix: str, names: dict[str, Callable]) -> dict:
    """One row: base alone, ours fused and apart, and each peer behind the same base product."""
    slots, parts = contest.slots_of(tokens, adapters, mix), []
    for projection in contest.PROJECTIONS:
        problem, layers = contest.make(projection, slots, adapters, rank, LAYERS)
        hidden, outputs = problem.x.shape[1], problem.offsets[-1]
        weights = [torch.randn(outputs, hidden, **contest.BF16) / hidden**0.5 for _ in range(LAYERS)]
        parts.append((problem, layers, weights, torch.empty(tokens, outputs, **contest.BF16)))

    def base(problem, weight, out):
        torch.mm(problem.x, weight.t(), out=out)

    def interleaved(calls_of: Callable) -> tuple[float, float]:
        """Per layer: the graph holds the four projections of one layer after those of the other."""
        columns = [calls_of(*part) for part in parts]
        layers = [lambda layer=layer: [call() for call in layer] for layer in zip(*columns)]
        return timing.graph_us(layers, contest.REPEATS, cold=True)

    def alone(problem, layers, weights, out):
        return [partial(base, problem, weight, out) for weight in weights]

    def fused(problem, layers, weights, out):
        batch = contest.batch_of(problem)
        return [partial(linear_with_lora, problem.x, weight, layer, batch, out)
                for weight, layer in zip(weights, layers)]

    def behind(prepare):
        def calls_of(problem, layers, weights, out):
            lora = prepare(problem, layers, out)
            return [lambda w=w, call=call: (base(problem, w, out), call())
                    for w, call in zip(weights, lora)]
        return calls_of

    errors = []
    for problem, layers, weights, out in parts:
        out.fill_(float("nan"))
        fused(problem, layers, weights, out)[0]()
        expected = contest.truth(problem, layers[0], problem.x.double() @ weights[0].double().t())
        errors.append(float((out.double() - expected).norm() / expected.norm()))
    assert max(errors) < contest.TOLERANCE, errors
    base_us, spread = interleaved(alone)
    row = {"tokens": tokens, "adapters": adapters, "rank": rank, "mix": mix, "weights": "cold",
           "base_us": round(base_us, 1), "spread_us": round(spread, 2),
           "fused": fuses(parts[0][0].x, contest.batch_of(parts[0][0])),
           "fused_us": round(interleaved(fused)[0], 1),
           "unfused_us": round(interleaved(behind(contest.ours))[0], 1),
           "peers": {name: round(interleaved(behind(prepare))[0], 1)
                     for name, prepare in names.items() if name != "ours"},
           "floor_us": round(sum(contest.floor_us(part[0], base_weights=True) for part in parts), 1),
           "error": float(f"{max(errors):.1e}")}
    again_us = interleaved(alone)[0]  # the base once more: what drifts is seen
    return row | {"base_again_us": round(again_us, 1)}


def main() -> int:
    if not torch.cuda.is_available():
        print("benchmarks.lora_layer: no CUDA GPU here")
        return 1
    torch.set_grad_enabled(False)
    names = {n: p for n, p in contest.contenders().items() if n in
             ("ours", "sglang_triton", "sglang_csgmv", "sglang_triton_v2", "vllm")}
    print("tokens adapters rank mix        base   again  floor  fused (x base)  apart (x base)   "
          + " ".join(n.removeprefix("sglang_")[:7].rjust(7) for n in names if n != "ours"))
    rows = []
    for shape in SHAPES:
        row = measure(*shape, names)
        rows.append(row)
        base = row["base_us"]
        print(f"{shape[0]:6} {shape[1]:8} {shape[2]:4} {shape[3]:8} {base:7.1f} {row['base_again_us']:7.1f}"
              f"{row['floor_us']:7.1f} {row['fused_us']:7.1f} {row['fused_us'] / base:6.3f}"
              f" {row['unfused_us']:8.1f} {row['unfused_us'] / base:6.3f}    "
              + " ".join(f"{us / base:7.3f}" for us in row["peers"].values()), flush=True)
    path = evidence.write("lora_layer", rows, layers_in_a_graph=LAYERS, repeats=contest.REPEATS,
                          spread="distance between the quartiles, of base_us", peers=peers.versions(),
                          error="of the norm, against float64, the worst of four", absent=peers.absent())
    print("written:", path.relative_to(evidence.ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
