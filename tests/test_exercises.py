"""Each checker passes the solution and refuses the wrong answers that readers give."""

import pytest
import torch

from book import exercises
from lorakit import reference, slots_to_device
from lorakit.routing import route_by_adapter


def inverse(permutation):
    return [permutation.index(token) for token in range(len(permutation))]


def counted(slots, max_loras):
    bounds = [0]
    for slot in range(max_loras):
        bounds.append(bounds[-1] + slots.count(slot))
    return bounds


def chunked(seg_indptr, limit):
    bounds = {0, seg_indptr[-1]}
    for start, end in zip(seg_indptr, seg_indptr[1:]):
        bounds |= set(range(start, end, limit)) | {end}
    return sorted(bounds)


def routed(weight_indices, lora_ranks, scalings, out):
    route_by_adapter(weight_indices, lora_ranks, scalings, out=out)


def routed_without_the_zero(weight_indices, lora_ranks, scalings, out):
    fresh = route_by_adapter(weight_indices, lora_ranks, scalings)
    out.permutation[:weight_indices.numel()].copy_(fresh.permutation)
    out.seg_lens.copy_(fresh.seg_lens)
    torch.cumsum(out.seg_lens, dim=0, out=out.seg_indptr[1:])


def routed_backwards(weight_indices, lora_ranks, scalings, out):
    route_by_adapter(weight_indices, lora_ranks, scalings, out=out)
    tokens = weight_indices.numel()
    out.permutation[:tokens].copy_(torch.argsort(out.permutation[:tokens]))


def indptr_with_a_negative_index(slots, max_loras):
    seg_lens = [0] * max_loras
    for slot in slots:
        seg_lens[slot] += 1  # -1 counts for the last slot
    return [sum(seg_lens[:i]) for i in range(max_loras + 1)]


def masked(x, a_all, b_all, scalings, slots, y):
    own = (slots[:, None] == torch.arange(len(scalings), device=x.device)) * scalings
    h = (x @ a_all.T).unflatten(1, (len(scalings), -1)) * own[:, :, None]
    y += h.flatten(1) @ b_all.T


def masked_with_a_negative_index(x, a_all, b_all, scalings, slots, y):
    own = torch.zeros(len(slots), len(scalings), device=x.device)
    own[torch.arange(len(slots), device=x.device), slots] = 1.0  # -1 is the last slot
    h = (x @ a_all.T).unflatten(1, (len(scalings), -1)) * (own * scalings)[:, :, None]
    y += h.flatten(1) @ b_all.T


def masked_across_the_ranks(x, a_all, b_all, scalings, slots, y):
    columns = torch.arange(len(a_all), device=x.device) % len(scalings)  # right for rank 1 only
    own = (slots[:, None] == columns) * scalings[columns]
    y += (x @ a_all.T * own) @ b_all.T


def unmasked(x, a_all, b_all, scalings, slots, y):  # right while there is one slot
    y += scalings[0] * (x @ a_all.T @ b_all.T)


def masked_by_a_loop(x, a_all, b_all, scalings, slots, y):
    rank = len(a_all) // len(scalings)
    for slot in sorted(set(slots.tolist()) - {-1}):
        part = slice(slot * rank, (slot + 1) * rank)
        own = (slots == slot)[:, None] * scalings[slot]
        y += (x @ a_all[part].T * own) @ b_all[:, part].T


def masked_token_by_token(x, a_all, b_all, scalings, slots, y):
    for token in range(len(x)):
        row = slice(token, token + 1)
        masked(x[row], a_all, b_all, scalings, slots[row], y[row])


def masked_on_the_host(x, a_all, b_all, scalings, slots, y):
    mask = [[float(slot == i) for i in range(len(scalings))] for slot in slots.tolist()]
    own = torch.tensor(mask, device=x.device) * scalings
    h = (x @ a_all.T).unflatten(1, (len(scalings), -1)) * own[:, :, None]
    y += h.flatten(1) @ b_all.T


def masked_by_asking(x, a_all, b_all, scalings, slots, y):
    rows = torch.nonzero(slots >= 0)[:, 0]
    part = y[rows]
    masked(x[rows], a_all, b_all, scalings, slots[rows], part)
    y[rows] = part


def gathered(x, a_all, b_all, scalings, slots, y):
    found, scale = slots.clamp(min=0), (slots >= 0) * scalings[slots.clamp(min=0)]
    a = a_all.unflatten(0, (len(scalings), -1))[found]
    b = b_all.unflatten(1, (len(scalings), -1))[:, found].transpose(0, 1)
    y += (b @ (a @ x[:, :, None]))[:, :, 0] * scale[:, None]


def most_and_rest(slots, max_loras, used=None):
    lengths = [slots.count(slot) for slot in range(max_loras)]
    return max(lengths) * (max_loras if used is None else used) - sum(lengths)


def placed(slots, token, max_loras, none=None):
    keys = [slot if slot >= 0 else (max_loras if none is None else none) for slot in slots]
    return sum(key < keys[token] for key in keys) + keys[:token].count(keys[token])


def sorted_by_key(weight_indices, max_loras, keys=lambda w: w & 0x7FFFFFFF):
    return torch.argsort(keys(weight_indices), stable=True).int()


def tiled(seg_lens, block, room, rest=(-1, 0), least=0):
    table, start = [], 0
    for segment, length in enumerate(seg_lens):
        table += [(segment, start + first) for first in range(0, max(length, least), block)]
        start += length
    return table + [rest] * (room - len(table))


def programs(seg_lens, max_len, hidden, block_k, splits, parts=None):
    tiles, steps = sum(-(-length // 16) for length in seg_lens), -(-hidden // block_k)
    parts = -(-steps // -(-steps // splits)) if parts is None else parts(steps, splits)
    return -(-max_len // 16) * len(seg_lens) * splits, tiles * splits, tiles * parts


RIGHT = [
    (exercises.check_programs, programs),
    (exercises.check_place_of, placed),
    (exercises.check_permutation, sorted_by_key),
    (exercises.check_tile_table, tiled),
    (exercises.check_break_even, lambda k, n: (k * n + k + n - 1) // (k + n)),
    (exercises.check_padded_rows, most_and_rest),
    (exercises.check_masked, masked),
    (exercises.check_to_places, inverse),
    (exercises.check_seg_indptr, counted),
    (exercises.check_chunks, chunked),
    (exercises.check_reset, lambda x: x[0:1].zero_()),
    (exercises.check_reset, lambda x: x.narrow(0, 0, 1).mul_(0)),
    (exercises.check_reset, lambda x: x.select(0, 0).zero_()),
    (exercises.check_reset, lambda x: x.index_fill_(0, torch.arange(1, device=x.device), 0)),
    (exercises.check_routing, routed),
]
WRONG = [
    (exercises.check_programs, "with a step",  # right while the parts divide the steps
     lambda *case: programs(*case, parts=min)),
    (exercises.check_programs, "with a step", lambda *case: programs(*case, parts=lambda _, n: n)),
    (exercises.check_programs, "live",  # right while no segment ends inside of a tile
     lambda lens, *rest: programs([sum(lens), *[0] * (len(lens) - 1)], *rest)),
    (exercises.check_programs, "launched",  # launches what is live: the host does not know
     lambda lens, top, *rest: (programs(lens, top, *rest)[1], *programs(lens, top, *rest)[1:])),
    (exercises.check_place_of, "belongs to place",  # right while every token has an adapter
     lambda s, t, n: placed(s, t, n, none=-1)),
    (exercises.check_place_of, "belongs to place",  # right while no two tokens share an adapter
     lambda s, t, n: sum((a if a >= 0 else n) < (s[t] if s[t] >= 0 else n) for a in s)),
    (exercises.check_place_of, "belongs to place",  # counts itself
     lambda s, t, n: placed(s, t, n) + 1),
    (exercises.check_permutation, "expected",  # right while every token has an adapter
     lambda w, n: sorted_by_key(w, n, keys=lambda w: w)),
    (exercises.check_permutation, "expected",  # the right segments, the last token first
     lambda w, n: w.numel() - 1 - sorted_by_key(w.flip(0), n)),
    (exercises.check_permutation, "expected",  # token -> place
     lambda w, n: torch.argsort(sorted_by_key(w, n)).int()),
    (exercises.check_tile_table, "pairs, got", lambda s, b, room: tiled(s, b, 0)),
    (exercises.check_tile_table, "first, got|the rest",  # right while no segment is empty
     lambda s, b, room: tiled(s, b, room, least=1)),
    (exercises.check_tile_table, "first, got",  # right while every segment fits one tile
     lambda s, b, room: tiled(s, max(s) or 1, room)),
    (exercises.check_tile_table, "the rest must be",
     lambda s, b, room: tiled(s, b, room, rest=(0, 0))),
    (exercises.check_break_even, "4096 -> 14336", lambda k, n: k // 2),  # passes for 4096, 4096
    (exercises.check_break_even, "4096 -> 14336", lambda k, n: k * n // (k + n)),
    (exercises.check_break_even, "the least rank", lambda k, n: min(k, n)),
    (exercises.check_padded_rows, "rows of padding",  # right while every token has an adapter
     lambda s, n: n * max(s.count(i) for i in range(n)) - len(s)),
    (exercises.check_padded_rows, "rows of padding",  # right while every slot is in use
     lambda s, n: most_and_rest(s, n, used=len(set(s) - {-1}))),
    (exercises.check_padded_rows, "rows of padding",  # lets those without an adapter set the width
     lambda s, n: n * max(map(s.count, s)) - sum(slot >= 0 for slot in s)),
    (exercises.check_masked, "slot -1, has a wrong row", masked_with_a_negative_index),
    (exercises.check_masked, "has a wrong row", masked_across_the_ranks),
    (exercises.check_masked, "has a wrong row", unmasked),
    (exercises.check_masked, "in place", lambda x, a, b, s, i, y: masked(x, a, b, s, i, y.clone())),
    (exercises.check_masked, "asks the device", masked_by_a_loop),
    (exercises.check_masked, "is there a loop", masked_token_by_token),
    (exercises.check_masked, "asks the device", masked_by_asking),
    (exercises.check_masked, "asks the device", masked_on_the_host),
    (exercises.check_masked, "a copy of A for each token", gathered),
    (exercises.check_to_places, "expected places", lambda p: p),
    (exercises.check_to_places, "expected places", lambda p: sorted(p)),
    (exercises.check_to_places, "expected places", lambda p: p[::-1]),
    (exercises.check_seg_indptr, "expected", indptr_with_a_negative_index),
    (exercises.check_seg_indptr, "expected", lambda s, n: counted(s, n)[1:]),
    (exercises.check_seg_indptr, "expected", lambda s, n: counted(s, n)[:-1]),
    (exercises.check_chunks, "must hold 1 to", lambda b, n: b),
    (exercises.check_chunks, "pieces are enough", lambda b, n: list(range(b[-1] + 1))),
    (exercises.check_chunks, "must hold 1 to|pieces are enough", lambda b, n: chunked(b, 2)),
    (exercises.check_chunks, "a bound is lost", lambda b, n: list(range(0, b[-1], n)) + b[-1:]),
    (exercises.check_chunks, "ends must stay", lambda b, n: chunked(b, n)[:-1] or [0, 0]),
    (exercises.check_reset, "got", lambda x: x.zero_()),
    (exercises.check_reset, "got", lambda x: x[1:2].zero_()),
    (exercises.check_reset, "got", lambda x: torch.zeros_like(x)),
    (exercises.check_routing, "seg_indptr", routed_without_the_zero),
    (exercises.check_routing, "permutation", routed_backwards),
    (exercises.check_routing, "seg_lens", lambda *args: None),
]


@pytest.mark.parametrize("checker, answer", RIGHT)
def test_the_solution_passes(checker, answer, capsys):
    checker(answer)
    assert capsys.readouterr().out.startswith(("passed", "right values"))


@pytest.mark.parametrize("checker, message, answer", WRONG)
def test_a_wrong_answer_is_refused_and_told_why(checker, message, answer, capsys):
    with pytest.raises(AssertionError, match=message):
        checker(answer)
    assert capsys.readouterr().out == ""


@pytest.mark.gpu
def test_a_routing_that_waits_is_refused():
    def route(weight_indices, lora_ranks, scalings, out):
        out.seg_indptr[0] = torch.tensor(0)
        routed(weight_indices, lora_ranks, scalings, out)

    with pytest.raises(AssertionError, match="the host waits"):
        exercises.check_routing(route)


@pytest.mark.gpu
def test_the_assignment_is_refused_because_it_waits():
    def assign(x):
        x[0] = 0

    with pytest.raises(AssertionError, match="the host waits"):
        exercises.check_reset(assign)


def test_the_batches_hold_the_corners():
    batches = exercises.batches()
    assert any(-1 in slots for slots in batches)
    assert any(inverse(p) != p for p in
               (reference.route_by_adapter(slots, 4)["permutation"] for slots in batches))
    assert all(slots_to_device(slots, 4, "cpu").numel() == len(slots) for slots in batches)


# -- kernels: *Shrink* ----------------------------------------------------------------------------

try:
    import triton
    import triton.language as tl
except ImportError:  # Triton is published for Linux only
    triton = None
else:
    @triton.jit
    def rows_kernel(x, a, h, K, R, SLACK: tl.constexpr, MASK_X: tl.constexpr, MASK_A: tl.constexpr,
                    BLOCK_K: tl.constexpr):
        token, rank = tl.program_id(0), tl.program_id(1)
        ks = tl.arange(0, BLOCK_K)
        x_row = tl.load(x + token * K + ks, mask=(ks < K + SLACK) | (not MASK_X), other=0.0)
        a_row = tl.load(a + rank * K + ks, mask=(ks < K + SLACK) | (not MASK_A), other=0.0)
        tl.store(h + token * R + rank, tl.sum(x_row * a_row))

    @triton.jit
    def planes_kernel(planes, h, size, SPLITS: tl.constexpr, ORDER: tl.constexpr,
                      MASKED: tl.constexpr, BLOCK: tl.constexpr):
        places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        is_place = places < size
        keep = is_place if MASKED else places < size + 8
        total = tl.zeros((BLOCK,), dtype=tl.float32)
        if ORDER == "into h":
            total = tl.load(h + places, mask=is_place, other=0.0)
        for i in tl.static_range(SPLITS):
            plane = SPLITS - 1 - i if ORDER == "last first" else i
            total += tl.load(planes + plane * size + places, mask=is_place, other=0.0)
        tl.store(h + places, total, mask=keep)


def masked_rows(mask_x=True, mask_a=True, slack=0, block_k=None):
    def launch(x, a, h):
        size = block_k or triton.next_power_of_2(x.shape[1])
        rows_kernel[h.shape](x, a, h, x.shape[1], len(a), slack, mask_x, mask_a, BLOCK_K=size)
    return launch


def add_planes(order="first first", masked=True, planes_left_out=0):
    def launch(planes, h):
        grid = (triton.cdiv(h.numel(), 32),)
        planes_kernel[grid](planes, h, h.numel(), len(planes) - planes_left_out, order, masked, BLOCK=32)
    return launch


def add_planes_pairwise(planes, h):
    parts = list(planes)
    while len(parts) > 1:
        parts = [sum(parts[i:i + 2]) for i in range(0, len(parts), 2)]
    h.copy_(parts[0])


@pytest.mark.kernels
@pytest.mark.parametrize("checker, launch", [
    (exercises.check_masked_rows, masked_rows()),
    (exercises.check_masked_rows, masked_rows(block_k=64)),
    (exercises.check_add_planes, add_planes()),
])
def test_the_kernel_of_the_solution_passes(checker, launch, capsys):
    checker(launch)
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.kernels
@pytest.mark.parametrize("checker, message, launch", [
    # one mask passes while ordinary numbers lie around the tensors, none while K is a power of two
    (exercises.check_masked_rows, r"3 tokens, 2 ranks, K 5: h\[0, 1\] is nan", masked_rows(mask_a=False)),
    (exercises.check_masked_rows, r"3 tokens, 2 ranks, K 5: h\[2, 0\] is nan", masked_rows(mask_x=False)),
    (exercises.check_masked_rows, r"3 tokens, 2 ranks, K 5: h\[0, 0\]", masked_rows(False, False)),
    (exercises.check_masked_rows, r"K 5: h\[0, 0\]", masked_rows(slack=1)),
    (exercises.check_masked_rows, "K 16", masked_rows(block_k=8)),  # the first 8 of each row
    (exercises.check_add_planes, "still holds the NaN", add_planes("into h")),
    (exercises.check_add_planes, "another order", add_planes("last first")),
    (exercises.check_add_planes, "another order", add_planes_pairwise),
    (exercises.check_add_planes, "outside of h", add_planes(masked=False)),
    (exercises.check_add_planes, "wrong sums", add_planes(planes_left_out=1)),
])
def test_a_wrong_kernel_is_refused_and_told_why(checker, message, launch, capsys):
    with pytest.raises(AssertionError, match=message):
        checker(launch)
    assert capsys.readouterr().out == ""


# -- *Expand, and stacked slices* -----------------------------------------------------------------

def first_column(tile, sizes, block):
    starts = [(s, sum(sizes[:s]) + first) for s in range(len(sizes))
              for first in range(0, sizes[s], block)]
    return starts[tile]


def first_column_of_equal_widths(tile, sizes, block):
    tiles = -(-sizes[0] // block)
    return tile // tiles, sum(sizes[:tile // tiles]) + tile % tiles * block


def first_column_straight_through(tile, sizes, block):  # right while no tile crosses
    return sum(sum(sizes[:s + 1]) <= tile * block for s in range(len(sizes))), tile * block


def first_column_in_its_slice(tile, sizes, block):
    slice_id, column = first_column(tile, sizes, block)
    return slice_id, column - sum(sizes[:slice_id])


def unpacked(slot, rank, num_slices):
    width, packed = len(slot) // num_slices, slot.clone()
    for s in range(num_slices):
        slot[s * width:s * width + rank] = packed[s * rank:(s + 1) * rank]


def unpacked_forward(slot, rank, num_slices):  # right for two slices
    width = len(slot) // num_slices
    for s in range(num_slices):
        slot[s * width:s * width + rank] = slot[s * rank:(s + 1) * rank].clone()


def unpacked_backward_row_by_row_forward(slot, rank, num_slices):  # overlaps itself
    width = len(slot) // num_slices
    for s in reversed(range(num_slices)):
        for i in range(rank):
            slot[s * width + i] = slot[s * rank + i]


def unpacked_elsewhere(slot, rank, num_slices):
    unpacked(slot.clone(), rank, num_slices)


@pytest.mark.parametrize("checker, answer", [
    (exercises.check_tile_columns, first_column), (exercises.check_unpack, unpacked)])
def test_the_solutions_of_expand_pass(checker, answer, capsys):
    checker(answer)
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.parametrize("checker, message, answer", [
    (exercises.check_tile_columns, r"slices \(4096, 1024, 1024\)", first_column_of_equal_widths),
    (exercises.check_tile_columns, r"slices \(40, 24, 24\)", first_column_straight_through),
    (exercises.check_tile_columns, r"slices \(16, 16\).* tile 1", first_column_in_its_slice),
    (exercises.check_unpack, "2 slices of rank 2", lambda *args: None),  # right at full rank
    (exercises.check_unpack, "3 slices of rank 2.* slice 2", unpacked_forward),
    (exercises.check_unpack, "3 slices of rank 7", unpacked_backward_row_by_row_forward),
    (exercises.check_unpack, "2 slices of rank 2", unpacked_elsewhere),
])
def test_wrong_answers_about_expand_are_refused(checker, message, answer, capsys):
    with pytest.raises(AssertionError, match=message):
        checker(answer)
    assert capsys.readouterr().out == ""


if triton is not None:
    @triton.jit
    def add_scaled(acc, out, scale, n, ORDER: tl.constexpr, SLACK: tl.constexpr, BLOCK: tl.constexpr):
        places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        mine = places < n + SLACK
        lora = tl.load(acc + places, mask=mine, other=0.0)
        base = tl.load(out + places, mask=mine, other=0.0)
        if ORDER == "add, cast":
            total = (base.to(tl.float32) + scale * lora).to(tl.float16)
        elif ORDER == "cast, add":  # right for whole numbers
            total = base + (scale * lora).to(tl.float16)
        elif ORDER == "cast, scale":
            total = (base.to(tl.float32) + scale * lora.to(tl.float16).to(tl.float32)).to(tl.float16)
        else:
            total = (base.to(tl.float32) + lora).to(tl.float16)
        tl.store(out + places, total, mask=mine)


class Ordered:
    """add_scaled with its order and its mask chosen, launched as a reader's kernel is."""

    def __init__(self, order, slack=0):
        self.chosen = {"ORDER": order, "SLACK": slack}

    def __getitem__(self, grid):
        return lambda *args, BLOCK: add_scaled[grid](*args, **self.chosen, BLOCK=BLOCK)


@pytest.mark.kernels
def test_adding_before_the_cast_passes(capsys):
    exercises.check_add_scaled(Ordered("add, cast"))
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.kernels
@pytest.mark.filterwarnings("ignore:overflow")  # NumPy's, in the interpreter
@pytest.mark.parametrize("message, order, slack", [
    ("not the nearest float16", "cast, add", 0),
    ("n 64, scale 1.0: .* not the nearest float16", "cast, scale", 0),
    ("n 64, scale 0.75: .* not the nearest float16", "no scale", 0),  # right for scale 1
    ("an element from 50 on was written", "add, cast", 64),  # right while n fills the tiles
])
def test_other_orders_and_masks_are_refused(message, order, slack, capsys):
    with pytest.raises(AssertionError, match=message):
        exercises.check_add_scaled(Ordered(order, slack))
    assert capsys.readouterr().out == ""
