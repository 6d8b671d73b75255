"""How large a tile each kernel works on. A few rules with their reasons, and no search."""

import torch
import triton


def token_block(max_len: int) -> int:
    """Tokens of a tile: 16, the least `tl.dot` takes, until segments are long (prefill)."""
    return 16 if max_len <= 256 else 64


def rank_block(width: int) -> int:
    """Ranks of a tile: the slot's width as a power of two, from 16 (for `tl.dot`) to 64."""
    return min(64, max(16, triton.next_power_of_2(width)))


def dot_precision(dtype: torch.dtype) -> str:
    """How `tl.dot` multiplies: exactly for float32 input, by tf32 for what is 16 bits wide.

    A 16-bit weight fits tf32 without loss (8 bits of exponent, 10 of mantissa).
    """
    return "ieee" if dtype == torch.float32 else "tf32"
