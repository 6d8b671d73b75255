"""Every kernel variant compiles for the GPUs of three generations, on a machine with no GPU."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.kernels

COMPILE = """
import itertools
import sys
import torch
import lorakit
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lorakit.kernels.expand import expand_kernel
from lorakit.kernels.route import route_kernel
from lorakit.kernels.shrink import shrink_kernel
from lorakit.kernels.tiles import (dot_precision, expand_stages, hidden_block, hidden_splits,
                                   rank_block, route_warps, token_block)

INTS = ("seg_indptr", "weight_indices", "lora_ranks", "permutation", "token_slots", "slot_ranks",
        "seg_lens")
FLOATS = ("h", "scalings", "slot_scalings")


def compile(kernel, constants, multiples_of_16, dtype="fp32", **options):
    types = {**{name: "*i32" for name in INTS}, **{name: "*fp32" for name in FLOATS},
             **{name: f"*{dtype}" for name in ("x", "lora_a", "lora_b", "out")}}
    signature = {name: "constexpr" if name in constants else types.get(name, "i32")
                 for name in kernel.arg_names}
    attrs = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names)
             if name in multiples_of_16}
    compiled = triton.compile(ASTSource(kernel, signature, constants, attrs),
                              target=GPUTarget("cuda", int(sys.argv[1]), 32), options=options)
    print(kernel.__name__, dtype, list(constants.values()), len(compiled.asm["cubin"]),
          compiled.metadata.shared)


for dtype, torch_dtype, permuted, slices, max_len, width in (
        ("bf16", torch.bfloat16, True, (4096, 1024, 1024), 32, 16),
        ("fp16", torch.float16, False, (64,), 4096, 64),
        ("fp32", torch.float32, True, (14336, 14336), 4096, 64),  # the largest tiles
        ("fp32", torch.float32, True, (14336, 14336), 32, 64)):  # the most planes
    block_k = hidden_block(torch_dtype)
    common = {"PERMUTED": permuted, "PRECISION": dot_precision(torch_dtype),
              "BLOCK_T": token_block(max_len), "BLOCK_R": rank_block(width),
              "SPLITS": hidden_splits(4096, block_k, max_len)}
    tensors = ("x", "lora_a", "lora_b", "h", "out", "K", "N", "R")
    for multiples in (tensors, ()):  # as PyTorch aligns them, and views at odd places
        compile(shrink_kernel, {**common, "NUM_SLICES": len(slices), "BLOCK_K": block_k},
                multiples, dtype)
        compile(expand_kernel, {**common, "SLICE_SIZES": slices, "BLOCK_N": 128},
                multiples, dtype, num_stages=expand_stages(torch_dtype))
for block, copy, vectors, multiples in itertools.product(
        (32, 1024, 8192), (True, False), (True, False), (("token_slots",), ())):
    compile(route_kernel, {"COPY_SLOTS": copy, "VECTORS": vectors, "BLOCK": block}, multiples,
            num_warps=route_warps(block))
"""


# The shared memory that a program may have there: 163, 99, 227 and 227 KiB.
@pytest.mark.parametrize("capability, shared_bytes", [
    (80, 166_912), (86, 101_376), (90, 232_448), (100, 232_448)])
def test_every_variant_compiles_and_fits(capability, shared_bytes, tmp_path):
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", COMPILE, str(capability)], env=environment,
                         capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    sizes = [tuple(map(int, line.split()[-2:])) for line in run.stdout.splitlines()]
    assert len(sizes) == 4 * 2 * 2 + 3 * 8
    assert all(cubin > 1000 and shared <= shared_bytes for cubin, shared in sizes), run.stdout
