"""Sums in a fixed order: planes that were computed in parts, and products with a float32 factor. Parts of
the LoRA kernels, on the device.
"""

import triton
import triton.language as tl


@triton.jit
def plane_sum(places, plane_size, is_there, PLANES: tl.constexpr):
    """Planes of h or of the base output, added up in a fixed order. All loads are on their way at once."""
    total = tl.load(places, mask=is_there, other=0.0)
    for plane in tl.static_range(1, PLANES):
        total += tl.load(places + plane * plane_size, mask=is_there, other=0.0)
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
    """`values` right, summed in float32, from what split_float32 made of `values`. The wide side of a
    tensor core's tile has 16 rows or more: `right` takes it where `values` has fewer.
    """
    if right.dtype != tl.bfloat16:
        right = right.to(tl.float32)
    if high.shape[0] >= 16:
        if right.dtype == tl.bfloat16:
            return tl.dot(high, right, tl.dot(low, right))
        else:
            return tl.dot(high, right, input_precision=PRECISION)
    else:
        left = tl.trans(right)
        if right.dtype == tl.bfloat16:
            return tl.trans(tl.dot(left, tl.trans(high), tl.dot(left, tl.trans(low))))
        else:
            return tl.trans(tl.dot(left, tl.trans(high), input_precision=PRECISION))
