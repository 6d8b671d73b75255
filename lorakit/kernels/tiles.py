"""How large a tile each kernel works on. A few rules with their reasons, and no search."""

import torch


def ceil_div(total: int, block: int) -> int:
    """Blocks that cover `total`. Like triton.cdiv, whose call on the host takes microseconds."""
    return -(-total // block)


def power_of_two(size: int) -> int:
    """The least power of two that is at least `size`, for size >= 1."""
    return 1 << max(size - 1, 0).bit_length()


def token_block(max_len: int) -> int:
    """Tokens of a tile: 16, the rows of a tensor core, until segments are long (prefill)."""
    return 16 if max_len <= 256 else 64


def rank_block(width: int) -> int:
    """Ranks of a tile: the slot's width as a power of two, from 16 (as above) to 64."""
    return min(64, max(16, power_of_two(width)))


def hidden_block(dtype: torch.dtype) -> int:
    """Hidden elements of one step: 256 bytes of a row, so that two tiles of any dtype, read one
    step ahead, fit the 99 KiB of shared memory that the smaller GPUs have.
    """
    return 64 if dtype == torch.float32 else 128


def hidden_splits(hidden: int, block_k: int, max_len: int) -> int:
    """Parts that shrink cuts the hidden size into: at most 8 in decode, where a handful of segments
    would leave most of the GPU idle, each with a step to do; 1 in prefill, which has programs
    enough. Fewer planes cost expand less; chapter *Shrink* measures both sides.
    """
    steps = max(1, ceil_div(hidden, block_k))
    return ceil_div(steps, ceil_div(steps, 8)) if max_len <= 256 else 1


def expand_stages(dtype: torch.dtype) -> int:
    """Steps of the loop over ranks whose tiles expand loads ahead: 3, Triton's default, but 2 for
    float32, whose eight planes would not fit the 99 KiB of the smaller GPUs otherwise.
    """
    return 2 if dtype == torch.float32 else 3


def route_warps(block: int) -> int:
    """Warps of a routing program: one alone need not wait for others; more share a long scan."""
    return 1 if block < 128 else 4 if block <= 1024 else 8


def dot_precision(dtype: torch.dtype) -> str:
    """How `tl.dot` multiplies float32 tiles: exactly for float32 weights, else by tf32.

    A 16-bit weight fits tf32 without loss (8 bits of exponent, 10 of mantissa). In expand the
    other factor is the float32 h, of which tf32 keeps 10 bits, as many as float16 has.
    """
    return "ieee" if dtype == torch.float32 else "tf32"
