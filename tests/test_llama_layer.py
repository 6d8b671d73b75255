"""lora_linear at the sizes of a Llama-3.1-8B layer, captured once and replayed for many mixes."""

import random

import pytest
import torch

pytest.importorskip("lorakit.ops", reason="Triton is published for Linux only", exc_type=ImportError)

from batches import DEVICE, random_weights
from lorakit import NO_ADAPTER, StaticLoRABatchInfo, reference, slots_to_device
from lorakit.ops import lora_linear
from lorakit.routing import route_by_adapter

REQUESTS, RANKS = 32, [8, 16, 32, 64, 8, 16, 32, 64]
SCALINGS = [0.25, 0.5, 1.0, 2.0, 0.5, 1.0, 2.0, 0.25]
PROJECTIONS = {  # name: (hidden, slice sizes)
    "qkv": (4096, (4096, 1024, 1024)),
    "o": (4096, (4096,)),
    "gate_up": (4096, (14336, 14336)),
    "down": (14336, (4096,)),
}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", PROJECTIONS)
def test_one_graph_serves_every_mix(name, dtype):
    hidden, slice_sizes = PROJECTIONS[name]
    weights = random_weights(RANKS, 64, hidden, slice_sizes, dtype)
    static = StaticLoRABatchInfo.empty(REQUESTS, len(RANKS), DEVICE)
    x = torch.randn(REQUESTS, hidden, device=DEVICE).to(dtype)
    base = torch.randn(REQUESTS, sum(slice_sizes), device=DEVICE).to(dtype)
    out = torch.empty_like(base)

    def step():
        out.copy_(base)
        route_by_adapter(static.token_weight_indices, static.lora_ranks, static.scalings, out=static)
        lora_linear(x, weights, static, out)

    step()  # compile
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    rng, error = random.Random(1), 4e-3 if dtype == torch.bfloat16 else 5e-4
    ranks = torch.tensor(RANKS, dtype=torch.int32, device=DEVICE)
    scalings = torch.tensor(SCALINGS, device=DEVICE)
    for requests in (32, 5, 19, 32, 1):
        slots = [rng.randint(NO_ADAPTER, len(RANKS) - 1) for _ in range(requests)]
        static.copy_from(slots_to_device(slots, len(RANKS), DEVICE), ranks, scalings)
        out.fill_(float("nan"))
        graph.replay()
        padded = slots + [NO_ADAPTER] * (REQUESTS - requests)
        expected = reference.lora_linear(x, weights, padded, RANKS, SCALINGS, base)
        assert (out.cpu().double() - expected).norm() / expected.norm() < error
        again = out.clone()
        graph.replay()
        assert torch.equal(out, again)
