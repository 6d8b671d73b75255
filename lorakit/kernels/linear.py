"""Linear: the base layer's product for a few tokens, x W^T, beside LoRA's shrink.

At decode sizes the product only streams W. Tokens are the narrow side of each tile, so that the wide
side, 64 rows of W, fills a tensor core. A short W is cut along K too, so that every processor has a
part to stream; `expand` adds the parts up when it adds LoRA.
"""

import torch
import triton
import triton.language as tl

from lorakit.kernels.tiles import (
    ceil_div, dot_precision, linear_block, linear_splits, pdl_options, power_of_two)
from lorakit.kernels.workspace import scratch


@triton.jit(do_not_specialize=["num_tokens"])  # one variant for every batch size
def linear_kernel(
    x,                        # (num_tokens, K), row-major
    w,                        # (N, K), row-major: the base layer's weight
    out,                      # (SPLITS, num_tokens, N), written
    num_tokens,               # rows of x
    N,                        # output size
    K,                        # hidden size
    SPLITS: tl.constexpr,     # parts that K is cut into, each summed by its own program
    PRECISION: tl.constexpr,  # of a float32 product; a 16-bit one is exact, the sum is float32
    BLOCK_T: tl.constexpr,    # tokens of a tile
    BLOCK_N: tl.constexpr,    # rows of w of a tile
    BLOCK_K: tl.constexpr,    # hidden elements of one step
    STAGES: tl.constexpr,     # buffers: all but one of them are being loaded
    PDL: tl.constexpr,        # start while the kernel before ends; let shrink start too
):
    # One program: BLOCK_N rows of W, BLOCK_T tokens, one part of K.
    if PDL:
        tl.extra.cuda.gdc_wait()  # launched early, it reads nothing before all earlier work is done
        tl.extra.cuda.gdc_launch_dependents()
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    tokens = tl.program_id(2) * BLOCK_T + tl.arange(0, BLOCK_T)
    is_row, is_token = rows < N, tokens < num_tokens
    w_rows = w + rows[:, None].to(tl.int64) * K
    x_rows = x + tokens[None, :].to(tl.int64) * K
    split = tl.program_id(1)
    part = tl.cdiv(tl.cdiv(K, BLOCK_K), SPLITS) * BLOCK_K
    acc = tl.zeros((BLOCK_N, BLOCK_T), dtype=tl.float32)
    for k in tl.range(split * part, tl.minimum((split + 1) * part, K), BLOCK_K, num_stages=STAGES):
        ks = k + tl.arange(0, BLOCK_K)
        is_k = ks < K
        w_tile = tl.load(w_rows + ks[None, :], mask=is_row[:, None] & is_k[None, :], other=0.0)
        x_tile = tl.load(x_rows + ks[:, None], mask=is_k[:, None] & is_token[None, :], other=0.0)
        acc = tl.dot(w_tile, x_tile, acc, input_precision=PRECISION)
    places = out + (split * num_tokens + tokens[:, None]).to(tl.int64) * N + rows[None, :]
    tl.store(places, tl.trans(acc).to(out.dtype.element_ty), mask=is_token[:, None] & is_row[None, :])


def linear(x: torch.Tensor, w: torch.Tensor, out: torch.Tensor,
           workspace: torch.Tensor | None = None) -> torch.Tensor:
    """The base product of a few tokens. On Hopper `shrink`, launched right behind it on the same x,
    runs beside it, and `expand` waits for both. A part of `ops.linear_with_lora`, which checks the
    arguments. No errors of its own.

    Args:
        x: (num_tokens, K) float16, bfloat16 or float32, at least one token.
        w: (N, K), of x's dtype.
        out: (num_tokens, N), of x's dtype.
        workspace: float32, one axis, of enough elements; planes become a view of its beginning.

    Returns:
        out, written; or, if K is cut, (splits, num_tokens, N) float32 planes that add up to it, and out
        is untouched: see `tiles.linear_splits`.

    One launch, no synchronisation, and one allocation if there are planes and no workspace. Each element
    is summed by one program in a fixed order, so the same input gives the same bits.
    """
    num_tokens, hidden = x.shape
    outputs = w.shape[0]
    block_n, block_k, stages = linear_block(x.dtype)
    block_t = min(64, max(16, power_of_two(num_tokens)))
    splits = linear_splits(outputs, hidden, block_n, block_k)
    y = out
    if splits > 1:
        y = scratch((splits, num_tokens, outputs), x.device, workspace)
    linear_kernel[ceil_div(outputs, block_n), splits, ceil_div(num_tokens, block_t)](
        x, w, y, num_tokens, outputs, hidden, SPLITS=splits, PRECISION=dot_precision(x.dtype),
        BLOCK_T=block_t, BLOCK_N=block_n, BLOCK_K=block_k, STAGES=stages, num_warps=4,
        **pdl_options(x.device))
    return y
