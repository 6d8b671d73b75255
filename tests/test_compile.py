"""Every kernel variant compiles for the GPUs of three generations, on a machine with no GPU."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.kernels

COMPILE = """
import sys
import torch
import lorakit
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lorakit.kernels.expand import expand_kernel
from lorakit.kernels.route import route_kernel
from lorakit.kernels.shrink import shrink_kernel
from lorakit.kernels.tiles import (
    dot_precision, hidden_block, hidden_splits, rank_block, token_block)

ints = ("seg_indptr", "weight_indices", "lora_ranks", "permutation")
for dtype, torch_dtype, permuted, slices, max_len, width in (
        ("bf16", torch.bfloat16, True, (4096, 1024, 1024), 32, 16),
        ("fp16", torch.float16, False, (64,), 4096, 64),
        ("fp32", torch.float32, True, (14336, 14336), 4096, 64)):  # the largest tiles
    common = {"PERMUTED": permuted, "PRECISION": dot_precision(torch_dtype),
              "BLOCK_T": token_block(max_len), "BLOCK_R": rank_block(width),
              "SPLITS": hidden_splits(4096, hidden_block(torch_dtype), max_len)}
    kernels = {
        shrink_kernel: {**common, "NUM_SLICES": len(slices), "BLOCK_K": hidden_block(torch_dtype)},
        expand_kernel: {**common, "SLICE_SIZES": slices, "BLOCK_N": 128},
    }
    for kernel, constants in kernels.items():
        types = {"h": "*fp32", "scalings": "*fp32", **{name: "*i32" for name in ints},
                 **{name: f"*{dtype}" for name in ("x", "lora_a", "lora_b", "out")}}
        signature = {name: "constexpr" if name in constants else types.get(name, "i32")
                     for name in kernel.arg_names}
        compiled = triton.compile(ASTSource(kernel, signature, constants),
                                  target=GPUTarget("cuda", int(sys.argv[1]), 32))
        print(kernel.__name__, dtype, len(compiled.asm["cubin"]), compiled.metadata.shared)
for block, warps in ((32, 1), (8192, 8)):
    constants = {"COPY_SLOTS": True, "VECTORS": True, "BLOCK": block}
    types = {name: "i32" for name in ("num_tokens", "max_loras")} | {
        name: "*fp32" for name in ("slot_scalings", "scalings")}
    signature = {name: "constexpr" if name in constants else types.get(name, "*i32")
                 for name in route_kernel.arg_names}
    compiled = triton.compile(ASTSource(route_kernel, signature, constants),
                              target=GPUTarget("cuda", int(sys.argv[1]), 32),
                              options={"num_warps": warps})
    print(route_kernel.__name__, block, len(compiled.asm["cubin"]), compiled.metadata.shared)
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
    assert len(sizes) == 8
    assert all(cubin > 1000 and shared <= shared_bytes for cubin, shared in sizes), run.stdout
