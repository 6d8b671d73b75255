"""Every kernel variant compiles for sm_80, sm_90 and sm_100, on a machine with no GPU."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.kernels

COMPILE = """
import itertools, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lorakit.kernels.expand import expand_kernel
from lorakit.kernels.shrink import shrink_kernel

ints = ("seg_indptr", "weight_indices", "lora_ranks", "permutation")
for dtype, permuted, slices in (("bf16", True, (4096, 1024, 1024)), ("fp16", False, (64,)),
                                ("fp32", True, (14336, 14336))):
    common = {"PERMUTED": permuted, "PRECISION": "ieee" if dtype == "fp32" else "tf32"}
    kernels = {
        shrink_kernel: {**common, "NUM_SLICES": len(slices), "BLOCK_T": 16, "BLOCK_R": 16, "BLOCK_K": 128},
        expand_kernel: {**common, "SLICE_SIZES": slices, "BLOCK_T": 64, "BLOCK_N": 128, "BLOCK_R": 64},
    }
    for kernel, constants in kernels.items():
        types = {"h": "*fp32", "scalings": "*fp32", **{name: "*i32" for name in ints},
                 **{name: f"*{dtype}" for name in ("x", "lora_a", "lora_b", "out")}}
        signature = {name: "constexpr" if name in constants else types.get(name, "i32")
                     for name in kernel.arg_names}
        compiled = triton.compile(ASTSource(kernel, signature, constants),
                                  target=GPUTarget("cuda", int(sys.argv[1]), 32))
        print(kernel.__name__, dtype, len(compiled.asm["cubin"]))
"""


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_every_variant_compiles(capability, tmp_path):
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", COMPILE, str(capability)], env=environment,
                         capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    sizes = [int(line.split()[-1]) for line in run.stdout.splitlines()]
    assert len(sizes) == 6 and min(sizes) > 1000
