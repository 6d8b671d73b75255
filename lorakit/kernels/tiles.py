"""How large a tile each kernel works on. A few rules with their reasons, and no search."""

import functools

import torch

from lorakit import runtime
from lorakit.batch import LoRABatchInfo


def ceil_div(total: int, block: int) -> int:
    """Blocks that cover `total`. Like triton.cdiv, whose call on the host takes microseconds."""
    return -(-total // block)


def power_of_two(size: int) -> int:
    """The least power of two that is at least `size`, for size >= 1."""
    return 1 << max(size - 1, 0).bit_length()


def is_decode(num_tokens: int) -> bool:
    """True for as few tokens as a decode step has: then latency counts, and programs are scarce."""
    return num_tokens <= 256


def one_by_one(num_tokens: int, num_segments: int) -> bool:
    """True if each token gets programs of its own (kernels/tokens.py): where every token may have an
    adapter of its own. Otherwise tokens that share an adapter share its tiles.
    """
    return is_decode(num_tokens) and num_tokens <= num_segments


def one_by_one_shrinks(hidden: int, width: int) -> bool:
    """True if such tokens get programs of their own in shrink too: where A has at most 65,536 elements a
    slice. For more, a tensor core is worth its padding.
    """
    return hidden * width <= 2**16


def token_block(num_tokens: int, num_segments: int, block_r: int = 16, outputs: int = 0) -> int:
    """Tokens of a tile. In decode 8, the least that tensor cores take, if the segments have 4 tokens each
    at most, else 16. In prefill 32, but for slots so wide that a tile of h would fill the shared memory
    of a smaller GPU. Expand says its `outputs` too: it takes 16 if tiles of 8 would read 16 MiB of B or
    more, in 16 bits, because a tile reads all of its adapter's B again.
    """
    if is_decode(num_tokens):
        tiles = min(num_tokens, num_segments + num_tokens // 8)
        return 8 if num_tokens <= 4 * num_segments and tiles * outputs * block_r < 2**23 else 16
    return 16 if block_r > 256 else 32


def rank_block(width: int) -> int:
    """A slot's width as a power of two, at least the 16 that a tensor core takes."""
    return max(16, power_of_two(width))


def most_tiles(places: int, batch: LoRABatchInfo, block_t: int) -> int:
    """The most tiles that a batch of so many tokens can have: one for each segment that can have a
    token, and one for each `block_t` tokens, but no more than tokens. The host does not know the
    segments' lengths.
    """
    return min(places, min(places, batch.num_segments) + places // block_t)


def segment_block(batch: LoRABatchInfo, num_tokens: int) -> int:
    """Segments that a program looks through at once for its tile, as a power of two up to 1024. 0 for
    a decode step cut by request: a segment a token, so the grid has an axis of them and none looks.
    """
    if batch.permutation is None and is_decode(num_tokens):
        return 0
    return min(1024, max(2, power_of_two(batch.num_segments)))


def hidden_block(dtype: torch.dtype) -> int:
    """Hidden elements of one step of shrink in decode: 512 bytes of a row, and 256 of a float32 one."""
    return 64 if dtype == torch.float32 else 256


def shrink_blocks(num_tokens: int, num_segments: int, width: int,
                  dtype: torch.dtype) -> tuple[int, int, int]:
    """Tokens, ranks and hidden elements of a tile of shrink. In decode as many tokens as in expand, by
    16 ranks, so that a wide slot gives more programs. In prefill 64 by up to 64, and half the elements.
    """
    if is_decode(num_tokens):
        return token_block(num_tokens, num_segments), 16, hidden_block(dtype)
    return 64, min(64, rank_block(width)), hidden_block(dtype) // 2


def shrink_pieces(num_tokens: int) -> int:
    """Sums of a program of shrink, each of a piece of every step: in decode one for each of 4 warps, which
    would else sum the same few ranks, one after the other. In prefill each warp has tokens of its own.
    """
    return 4 if is_decode(num_tokens) else 1


def hidden_splits(hidden: int, block_k: int, num_tokens: int, width: int, tiles: int) -> int:
    """Parts that shrink cuts the hidden size into, for so many `tiles` of tokens, slices and ranks.
    More parts start more programs, and each is a plane that every program of expand reads. In decode a
    part has four steps, or two if there are few tiles, but as many more as keep the programs to 198, three
    for two of an H200's processors. At least 4 planes, 2 of slots wider than 64, and 16 at most. Prefill
    has programs enough: 4 to 1,024 tokens, then 2. No part is without a step.
    """
    steps = max(1, ceil_div(hidden, block_k))
    wanted = 4 if num_tokens <= 1024 else 2
    if is_decode(num_tokens):
        least = 4 if width <= 64 else 2
        wanted = max(least, min(16, steps // (2 if tiles < 16 else 4), 198 // max(1, tiles)))
    return ceil_div(steps, ceil_div(steps, wanted))


def shrink_stages(programs: int, steps: int, width: int, behind: bool, device: torch.device) -> int:
    """Steps of shrink on their way, and the one at work. Five where there is room, for two programs a
    processor: most then wait for memory once. Three for more programs, for parts of up to 4 `steps` of a
    slot wider than 32, whose large tiles of B wait for that memory, on smaller GPUs, and `behind` the
    base product, whose buffers leave 32 KiB.
    """
    deep = has_room(device) and programs <= 264 and not behind
    return 5 if deep and (width <= 32 or steps > 4) else 3


def column_block(block_t: int, block_r: int, outputs: int, dtype: torch.dtype, room: bool = True) -> int:
    """Output columns of a step of expand: 256 in decode, half as many in prefill, whose tiles have twice
    the tokens. 512 for 8 tokens and a rank up to 16, if that leaves two programs a processor of all
    `outputs`. Fewer where a slot is wide, so that a tile of B takes 32 KiB at most (to a width of 512),
    and half of that for float16 where there is no `room`: it is multiplied in float32.
    """
    if block_t == 8 and block_r == 16 and outputs >= 264 * 512:
        return 512
    wide = dtype.itemsize == 2 and (room or dtype == torch.bfloat16)
    return max(16, min(256 if block_t <= 16 else 128, (16384 if wide else 8192) // block_r))


def expand_warps(block_n: int, late: bool) -> int:
    """Warps of an expand program: 8 for a wide tile, or if the base output comes `late`, when all that
    is left of a program counts; else 4.
    """
    return 8 if late or block_n > 256 else 4


def column_steps(chunks: int, programs: int, most: int) -> int:
    """Steps of an expand program: as many as leave `programs` of them, two or four for each of an H200's
    132 processors, but `most` at most. A program that goes on finds its tokens and adds up h once,
    and loads ahead; one that goes on for long ends alone.
    """
    return min(most, max(1, chunks // programs))


def column_stages(block_n: int, room: bool) -> int:
    """Tiles of B that an expand program holds in shared memory: three where there is room, else two."""
    return 3 if room and block_n <= 256 else 2


def linear_block(dtype: torch.dtype) -> tuple[int, int, int]:
    """Rows of W, hidden elements and stages of the base product. 64 rows fill a tensor core of Hopper;
    three steps in flight are 48 KiB of W, which two programs a processor need to keep memory busy.
    """
    return (64, 64, 3) if dtype == torch.float32 else (64, 128, 4)


def linear_splits(outputs: int, hidden: int, block_n: int, block_k: int) -> int:
    """Parts that the base product cuts the hidden size into: 1 if the rows of W alone give two
    programs to each of 132 processors, else 2, or 4 for a long hidden size.
    """
    if ceil_div(outputs, block_n) >= 264:
        return 1
    steps = max(1, ceil_div(hidden, block_k))
    wanted = 4 if hidden > 8192 else 2
    return ceil_div(steps, ceil_div(steps, wanted))


@functools.cache
def has_room(device: torch.device) -> bool:
    """True on GPUs whose programs may have 200 KiB of shared memory: Hopper and Blackwell for servers,
    with 227. Others have 99 or 163.
    """
    if device.type != "cuda" or runtime.INTERPRETED:
        return False
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin >= 200 * 1024


@functools.cache
def has_pdl(device: torch.device) -> bool:
    """True on GPUs that can start a kernel before the one that it depends on has ended (Hopper on)."""
    if device.type != "cuda" or runtime.INTERPRETED:
        return False
    return torch.cuda.get_device_capability(device) >= (9, 0)


def pdl_options(device: torch.device) -> dict[str, bool]:
    """How to launch a kernel that has an argument PDL: the argument, and Triton's option if true."""
    return {"PDL": True, "launch_pdl": True} if has_pdl(device) else {"PDL": False}


def route_warps(block: int) -> int:
    """Warps of a routing program: one alone need not wait for others; more share a long scan."""
    return 1 if block < 128 else 4 if block <= 1024 else 8


def dot_precision(dtype: torch.dtype) -> str:
    """How `tl.dot` multiplies float32 tiles: exactly for float32 weights, else by tf32.

    A 16-bit weight fits tf32 without loss (8 bits of exponent, 10 of mantissa). In expand the
    other factor is the float32 h, of which tf32 keeps 10 bits, as many as float16 has.
    """
    return "ieee" if dtype == torch.float32 else "tf32"
