"""Routing: one kernel against its twin in PyTorch operations, on a GPU.

Both write static buffers, in one process and one run. GPU microseconds are taken inside a CUDA
graph of 20 calls on the buffers' own tensors, as a server captures them. Host microseconds are those
of an eager call with the step's tensors: ten calls in a row behind queued work, the two forms in
turn, so that the noise of the host meets both.
Correctness comes first: every case is compared with the loops of `reference`.
"""

import random
import statistics
import sys
from functools import partial

import torch

from benchmarks import evidence
from lorakit import NO_ADAPTER, StaticLoRABatchInfo, reference, routing, slots_to_device, timing

SIZES = ((1, 8), (8, 8), (32, 8), (32, 32), (64, 64), (128, 16), (256, 8), (256, 64), (1024, 64),
         (4096, 128), (8192, 8), (8192, 256))
MIXES = ("uniform", "one", "zipf")
FORMS = {"kernel": routing.route_by_adapter, "torch": routing.route_by_adapter_torch}
CALLS, REPEATS, HOST_ROUNDS = 20, 51, 9


def slots_of(tokens: int, loras: int, mix: str) -> list[int]:
    """A batch on the host; in the mixes of several adapters one token in ten has none."""
    rng = random.Random(tokens * 1000 + loras)
    if mix == "one":
        return [loras - 1] * tokens
    skew = 0.0 if mix == "uniform" else 1.5
    weights = [1 / (slot + 1) ** skew for slot in range(loras)]
    slots = rng.choices(range(loras), weights, k=tokens)
    return [NO_ADAPTER if rng.random() < 0.1 else slot for slot in slots]


def measure(tokens: int, loras: int, mix: str) -> dict:
    """One row: both forms checked, then timed on the GPU and on the host."""
    device = torch.device("cuda", torch.cuda.current_device())
    slots = slots_of(tokens, loras, mix)
    inputs = (slots_to_device(slots, loras, device),
              torch.full((loras,), 16, dtype=torch.int32, device=device),
              torch.ones(loras, device=device))
    expected = reference.route_by_adapter(slots, loras)
    row = {"tokens": tokens, "adapters": loras, "mix": mix}
    eager_calls = {}
    for name, route in FORMS.items():
        static = StaticLoRABatchInfo.empty(tokens, loras, device)
        static.copy_from(*inputs)
        eager = partial(route, *inputs, out=static)
        captured = partial(route, static.token_weight_indices, static.lora_ranks, static.scalings,
                           out=static)
        for call in (eager, captured):
            static.permutation.fill_(-77), static.seg_indptr.fill_(-77), static.seg_lens.fill_(-77)
            call()
            for field, wanted in expected.items():
                assert getattr(static, field).tolist() == wanted, f"{name}: wrong {field}, {row}"
        us, spread = timing.graph_us([captured] * CALLS, REPEATS)
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        eager()
        allocations = torch.cuda.memory_stats()["allocation.all.allocated"] - before
        row |= {f"{name}_us": round(us, 3), f"{name}_spread_us": round(spread, 3),
                f"{name}_allocations": allocations}
        eager_calls[name] = eager
    host_us = {name: [] for name in FORMS}
    for _ in range(HOST_ROUNDS):
        for name, eager in eager_calls.items():
            ten = lambda: [eager() for _ in range(10)]  # noqa: E731
            host_us[name].append(1e3 / 10 * timing.host_ms(ten, queued_ms=5.0, repeats=3))
    return row | {f"{name}_host_us": round(statistics.median(v), 1) for name, v in host_us.items()}


def empty_kernel_us() -> float:
    """The least that a launch can cost inside a graph."""
    import triton  # here, since it is published for Linux only

    @triton.jit
    def nothing():
        pass

    return timing.graph_us([lambda: nothing[(1,)]()] * CALLS, REPEATS)[0]


def main() -> int:
    if not torch.cuda.is_available():
        print("benchmarks.routing: no CUDA GPU here")
        return 1
    torch.set_grad_enabled(False)
    print("tokens adapters mix       kernel us    torch us  ratio   host us: kernel  torch  ratio")
    rows, empty_us = [], empty_kernel_us()
    for tokens, loras in SIZES:
        for mix in MIXES:
            row = measure(tokens, loras, mix)
            rows.append(row)
            print(f"{tokens:6} {loras:8} {mix:8} {row['kernel_us']:6.2f} ±{row['kernel_spread_us']:5.2f}"
                  f"{row['torch_us']:9.2f} {row['torch_us'] / row['kernel_us']:6.1f}"
                  f"{row['kernel_host_us']:17.1f} {row['torch_host_us']:6.1f}"
                  f"{row['torch_host_us'] / row['kernel_host_us']:7.1f}", flush=True)
    path = evidence.write("routing", rows, calls_in_a_graph=CALLS, repeats=REPEATS,
                          spread="distance between the quartiles",
                          empty_kernel_us=round(empty_us, 3))
    print(f"an empty kernel in a graph: {empty_us:.2f} us")
    print("written:", path.relative_to(evidence.ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
