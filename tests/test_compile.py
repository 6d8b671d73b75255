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
from lorakit.kernels.linear import linear_kernel
from lorakit.kernels.route import route_kernel
from lorakit.kernels.shrink import shrink_kernel
from lorakit.kernels.tiles import (
    column_block, column_stages, dot_precision, expand_warps, hidden_splits, linear_block, power_of_two,
    rank_block, route_warps, shrink_blocks, shrink_pieces, token_block)
from lorakit.kernels import tokens

INTS = ("seg_indptr", "weight_indices", "lora_ranks", "permutation", "token_slots", "slot_ranks",
        "seg_lens")
FLOATS = ("h", "base", "scalings", "slot_scalings")


def compile(kernel, constants, multiples_of_16, dtype="fp32", **options):
    types = {**{name: "*i32" for name in INTS}, **{name: "*fp32" for name in FLOATS},
             **{name: f"*{dtype}" for name in ("x", "w", "lora_a", "lora_b", "out")}}
    assert all(p.is_constexpr for p in kernel.params if p.name in constants)  # as a launch has it
    signature = {name: "constexpr" if name in constants else types.get(name, "i32")
                 for name in kernel.arg_names}
    attrs = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names)
             if name in multiples_of_16}
    compiled = triton.compile(ASTSource(kernel, signature, constants, attrs),
                              target=GPUTarget("cuda", int(sys.argv[1]), 32), options=options)
    print(kernel.__name__, dtype, list(constants.values()), len(compiled.asm["cubin"]),
          compiled.metadata.shared)
    return compiled.asm["ptx"]


hopper, room = int(sys.argv[1]) >= 90, sys.argv[1] in ("90", "100")
pdl = {"PDL": hopper}
option = {"launch_pdl": True} if hopper else {}
for dtype, torch_dtype, permuted, slices, count, width, planes in (
        ("bf16", torch.bfloat16, True, (4096, 1024, 1024), 32, 16, 0),
        ("fp16", torch.float16, False, (64,), 4096, 64, 0),
        ("fp32", torch.float32, True, (14336, 14336), 4096, 64, 0),  # the largest tiles
        ("fp32", torch.float32, True, (14336, 14336), 32, 64, 2),
        ("bf16", torch.bfloat16, True, (4000, 1024), 32, 256, 4),  # a wide slot, a broken tile
        ("fp16", torch.float16, False, (40, 24), 32, 16, 0)):  # cut by request
    segments = 8 if permuted or count > 256 else 0
    block_t, block_r, block_k = shrink_blocks(count, segments or count, width, torch_dtype)
    splits = hidden_splits(14336, block_k, count, width, 100)
    rows = token_block(count, segments or count, rank_block(width), sum(slices))
    precision, columns = dot_precision(torch_dtype), column_block(
        rows, rank_block(width), sum(slices) * 12, torch_dtype, room)
    warps = expand_warps(columns, planes > 0)
    stages = 5 if room else 3  # the most that tiles.shrink_stages gives
    shrink = {**pdl, "BEHIND": planes > 0, "SPLITS": splits, "NUM_SLICES": len(slices), "BLOCK_K": block_k, "BLOCK_R": block_r}
    pieces = {"PIECES": shrink_pieces(count), "EVEN": 14336 % block_k == 0}
    expand = {**pdl, "R": width, "SPLITS": splits, "BASE_PLANES": planes, "LATE": False, "SLICE_SIZES": slices,
              "BLOCK_R": rank_block(width),
              "BLOCK_P": power_of_two(count) if planes else 1}
    tensors = ("x", "w", "lora_a", "lora_b", "h", "base", "out", "K", "N", "R")
    for multiples in (tensors, ()):  # as PyTorch aligns them, and views at odd places
        shrink, expand = {**shrink, "PERMUTED": permuted}, {**expand, "PERMUTED": permuted}
        compile(shrink_kernel, {**shrink, **pieces, "PRECISION": precision, "BLOCK_T": block_t,
                                "BLOCK_SEGMENTS": segments}, multiples, dtype, num_stages=stages,
                **option)
        ptx = compile(expand_kernel, {**expand, "PRECISION": precision, "BLOCK_T": rows,
                                "BLOCK_N": columns, "BLOCK_SEGMENTS": segments,
                                "STAGES": column_stages(columns, room),
                                "EVEN": all(size % columns == 0 for size in slices)},
                multiples, dtype, num_warps=warps, **option)
        if hopper:  # behind linear the next kernel may start early, once each loop's wait is over
            waits = ["wait" in line for line in ptx.splitlines() if "griddepcontrol." in line]
            assert waits.count(False) == 2 * (planes > 0) and waits[-1] == (planes == 0), waits
        if room and planes and multiples:  # of what the kernels before it write, nothing goes ahead
            copies = columns * rank_block(width) * torch_dtype.itemsize // 16 // (32 * warps)
            assert ptx.count("cp.async.cg") == 2 * 3 * copies, (ptx.count("cp.async.cg"), copies)
        if count <= 256 and permuted:
            block_k = 256 if dtype == "fp32" else 512
            del shrink["PERMUTED"], expand["PERMUTED"]
            compile(tokens.shrink_kernel, {**shrink, "BLOCK_R": 16, "BLOCK_K": block_k, "BITS": 4},
                    multiples, dtype, **option)
            compile(tokens.expand_kernel, {**expand, "BLOCK_S": power_of_two(splits), "BLOCK_N": max(16, 4096 // rank_block(width)),
                                          "BITS": 4}, multiples, dtype, **option)
            block_n, block_k, buffers = linear_block(torch_dtype)
            compile(linear_kernel, {**pdl, "SPLITS": 2, "PRECISION": precision, "BLOCK_T": 32,
                                    "BLOCK_N": block_n, "BLOCK_K": block_k, "STAGES": buffers},
                    multiples, dtype, **option)
for dtype, torch_dtype, count, width, late in (  # what fills the shared memory of a smaller GPU
        ("fp16", torch.float16, 32, 64, True), ("fp16", torch.float16, 32, 128, False),
        ("fp16", torch.float16, 4096, 256, False), ("fp32", torch.float32, 4096, 512, False),
        ("bf16", torch.bfloat16, 32, 8, False)):  # the last: rows of 16 bytes
    rows = token_block(count, 8, rank_block(width), 28672)
    columns = column_block(rows, rank_block(width), 28672 * 12, torch_dtype, room)
    ptx = compile(expand_kernel, {**pdl, "R": width, "SPLITS": 2, "BASE_PLANES": 0, "LATE": late,
                            "SLICE_SIZES": (4096,), "BLOCK_R": rank_block(width), "BLOCK_P": 1,
                            "PERMUTED": True, "PRECISION": dot_precision(torch_dtype),
                            "BLOCK_T": rows, "BLOCK_N": columns,
                            "BLOCK_SEGMENTS": 8, "STAGES": column_stages(columns, room), "EVEN": True},
            tensors, dtype, num_warps=expand_warps(columns, late), **option)
    if width == 8:  # 16 bytes of B in one copy, and none of 2: the width is known to the compiler
        assert "cp.async.cg" in ptx and "ld.global.b16" not in ptx
for block, copy, vectors, multiples in itertools.product(
        (32, 1024, 8192), (True, False), (True, False), (("token_slots",), ())):
    compile(route_kernel, {"COPY_SLOTS": copy, "VECTORS": vectors, "BLOCK": block}, multiples,
            num_warps=route_warps(block))
"""


# The shared memory that a program may have there: 163, 99, 227, 227 and 99 KiB.
@pytest.mark.parametrize("capability, shared_bytes", [
    (80, 166_912), (86, 101_376), (90, 232_448), (100, 232_448), (120, 101_376)])
def test_every_variant_compiles_and_fits(capability, shared_bytes, tmp_path):
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", COMPILE, str(capability)], env=environment,
                         capture_output=True, text=True, timeout=400)
    assert run.returncode == 0, run.stderr[-2000:]
    sizes = [tuple(map(int, line.split()[-2:])) for line in run.stdout.splitlines()]
    assert len(sizes) == 6 * 2 * 2 + 3 * 2 * 3 + 5 + 3 * 8
    assert all(cubin > 1000 and shared <= shared_bytes for cubin, shared in sizes), run.stdout
