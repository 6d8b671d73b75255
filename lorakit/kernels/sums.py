"""Sums in a fixed order: planes that were computed in parts, and products with a float32 factor. Parts of
the LoRA kernels, on the device.
"""

import triton
import triton.language as tl


@triton.jit
def plane_sum(rows, plane_size, is_h, SPLITS: tl.constexpr, BLOCK_S: tl.constexpr):
    """The planes of h, loaded all at once and added up in a fixed order."""
    if SPLITS == 1:
        return tl.load(rows, mask=is_h, other=0.0)
    else:
        planes = tl.arange(0, BLOCK_S)[:, None, None]
        return tl.sum(tl.load(rows[None, :, :] + planes * plane_size,
                              mask=is_h[None, :, :] & (planes < SPLITS), other=0.0), axis=0)


@triton.jit
def base_sum(places, plane_size, is_out, PLANES: tl.constexpr):
    """The planes of the base output, added up in a fixed order."""
    total = tl.load(places, mask=is_out, other=0.0)
    for plane in tl.static_range(1, PLANES):
        total += tl.load(places + plane * plane_size, mask=is_out, other=0.0)
    return total


@triton.jit
def split_float32(values, dtype: tl.constexpr):
    """The factors of a product with a tensor of that dtype: for bfloat16 two that add up to `values`
    and keep 16 bits of it, else `values` itself, twice.
    """
    if dtype == tl.bfloat16:
        high = values.to(tl.bfloat16)
        return high, (values - high.to(tl.float32)).to(tl.bfloat16)
    else:
        return values, values


@triton.jit
def dot_float32(high, low, right, PRECISION: tl.constexpr):
    """`values` right, summed in float32, from what split_float32 made of `values`."""
    if right.dtype == tl.bfloat16:
        return tl.dot(high, right, tl.dot(low, right))
    else:
        return tl.dot(high, right.to(tl.float32), input_precision=PRECISION)
