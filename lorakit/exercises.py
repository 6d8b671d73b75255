"""Checkers for the book's exercises. Each says what went wrong, for which batch, or that it passed.

Every checker is tested against the solution and against wrong answers that readers give.
"""

import itertools
import math
import random
from collections.abc import Callable, Sequence

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lorakit import NO_ADAPTER, StaticLoRABatchInfo, reference, runtime, slots_to_device, timing


def batches(max_loras: int = 4) -> list[list[int]]:
    """Slots of a few small batches: the chapter's own, the corners, and random ones."""
    rng = random.Random(7)
    fixed = [[1, 0, NO_ADAPTER, 2, 0, 1], [3], [NO_ADAPTER], [1] * 5, [2, 1, 0]]
    return fixed + [rng.choices(range(-1, max_loras), k=rng.randint(1, 12)) for _ in range(20)]


def check_to_places(to_places: Callable[[list[int]], list[int]]) -> None:
    """*From requests to segments*: from place -> token to token -> place."""
    for slots in batches():
        permutation = reference.route_by_adapter(slots, 4)["permutation"]
        places = list(to_places(list(permutation)))
        expected = [permutation.index(token) for token in range(len(slots))]
        assert places == expected, (
            f"permutation {permutation}: expected places {expected}, got {places}")
    print("passed")


def check_seg_indptr(seg_indptr_of: Callable[[list[int], int], list[int]]) -> None:
    """*From requests to segments*: bounds by counting, without a sort."""
    for slots in batches():
        expected = reference.route_by_adapter(slots, 4)["seg_indptr"]
        found = list(seg_indptr_of(list(slots), 4))
        assert found == expected, f"slots {slots}: expected {expected}, got {found}"
    print("passed")


def check_chunks(chunk: Callable[[list[int], int], list[int]]) -> None:
    """*From requests to segments*: cut long segments so that none is above a limit."""
    for slots, limit in itertools.product(batches(), (1, 2, 3, 16)):
        seg_indptr = reference.route_by_adapter(slots, 4)["seg_indptr"]
        found = list(chunk(list(seg_indptr), limit))
        given = f"seg_indptr {seg_indptr}, limit {limit}"
        assert found[:1] == [0] and found[-1] == seg_indptr[-1], (
            f"{given}: the ends must stay, got {found}")
        assert set(seg_indptr) <= set(found), f"{given}: a bound is lost in {found}"
        assert all(0 < b - a <= limit for a, b in zip(found, found[1:])), (
            f"{given}: every piece must hold 1 to {limit} tokens, got {found}")
        fewest = sum(-(-(b - a) // limit) for a, b in zip(seg_indptr, seg_indptr[1:]))
        assert len(found) - 1 == fewest, f"{given}: {fewest} pieces are enough, got {found}"
    print("passed")


def check_reset(reset: Callable[[torch.Tensor], object]) -> None:
    """*The seg_indptr sync bug*: make the first element zero, in place, without a wait."""
    x = torch.full((5,), 7, dtype=torch.int32, device=runtime.device())
    address = x.data_ptr()
    reset(x)
    assert x.tolist() == [0, 7, 7, 7, 7], f"expected [0, 7, 7, 7, 7], got {x.tolist()}"
    assert x.data_ptr() == address, "the tensor has moved: a graph would write to the old address"
    if x.device.type != "cuda":
        print("right values; whether it waits can be seen on a GPU only")
        return
    ms = timing.host_ms(lambda: reset(x), queued_ms=10.0)
    assert ms < 5.0, f"right values, but the host waits: {ms:.1f} ms behind 10 ms of queued work"
    print("passed")


def check_routing(route: Callable[..., object]) -> None:
    """*The seg_indptr sync bug*: a routing into static buffers that no history can spoil.

    Looks at seg_lens, seg_indptr and permutation. On a GPU the routing may not wait either, and
    it is captured once and replayed for every batch.
    """
    device = runtime.device()
    static = StaticLoRABatchInfo.empty(12, 4, device)
    ranks = torch.full((4,), 8, dtype=torch.int32, device=device)
    scalings = torch.ones(4, device=device)
    on_gpu = device.type == "cuda"

    def compare(slots: list[int], how: str) -> None:
        expected = reference.route_by_adapter(slots, 4)
        for name, wanted in expected.items():
            found = getattr(static, name).tolist()[:len(wanted)]
            assert found == wanted, f"slots {slots}{how}: {name} is {found}, not {wanted}"

    for slots in batches():
        poison(static)
        route(slots_to_device(slots, 4, device), ranks, scalings, static)
        compare(slots, "")
    if not on_gpu:
        print("right values; whether it waits can be seen on a GPU only")
        return

    def step() -> None:
        route(static.token_weight_indices, static.lora_ranks, static.scalings, static)

    ms = timing.host_ms(step, queued_ms=10.0)
    assert ms < 5.0, f"right values, but the host waits: {ms:.1f} ms behind 10 ms of queued work"
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for slots in batches():
        poison(static)
        static.copy_from(slots_to_device(slots, 4, device), ranks, scalings)
        graph.replay()
        compare(slots, ", replayed")
    print("passed")


def poison(static: StaticLoRABatchInfo) -> None:
    """What an earlier step may have left behind."""
    for name in ("seg_lens", "seg_indptr", "permutation"):
        getattr(static, name).fill_(-77)


def check_break_even(break_even_rank: Callable[[int, int], int]) -> None:
    """*One layer, many adapters*: the least rank at which A and B hold as many values as W."""
    for hidden, outputs in ((4096, 4096), (4096, 14336), (14336, 4096), (48, 40), (7, 5), (1, 1)):
        found = break_even_rank(hidden, outputs)
        expected = next(r for r in itertools.count(1) if r * (hidden + outputs) >= hidden * outputs)
        assert found == expected, (
            f"{hidden} -> {outputs}: rank {found} gives {found * (hidden + outputs)} values for A "
            f"and B, W has {hidden * outputs}; the least rank that reaches W is {expected}")
    print("passed")


def check_padded_rows(padded_rows: Callable[[list[int], int], int]) -> None:
    """*One layer, many adapters*: rows of padding, counted without building the grid."""
    for slots in batches():
        groups = [[slot for slot in slots if slot == i] for i in range(4)]
        longest = max(map(len, groups))
        expected = sum(longest - len(group) for group in groups)
        found = padded_rows(list(slots), 4)
        assert found == expected, f"slots {slots}, 4 slots: {expected} rows of padding, got {found}"
    print("passed")


class Operations(TorchDispatchMode):
    """The PyTorch operations run inside `with`, views left out, and the largest tensor made."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.names.append(func.overloadpacket.__name__)
            if isinstance(out, torch.Tensor):
                self.largest = max(self.largest, out.numel())
        return out


def check_masked(masked: Callable[..., object]) -> None:
    """*One layer, many adapters*: all adapters in one product, the wrong ones masked away."""
    max_loras, rank, hidden, outputs = 4, 3, 12, 10
    device, rng = runtime.device(), torch.Generator().manual_seed(11)

    def whole(*shape: int) -> torch.Tensor:
        return torch.randint(-3, 4, shape, generator=rng).float().to(device)

    lora_a, lora_b = whole(max_loras, rank, hidden), whole(max_loras, outputs, rank)
    a_all, b_all = lora_a.flatten(0, 1), lora_b.permute(1, 0, 2).flatten(1)
    scalings = torch.tensor([1.0, 2.0, 0.5, 4.0], device=device)
    counted: list[tuple[list[int], int]] = []
    for slots in batches(max_loras):
        x, y = whole(len(slots), hidden), whole(len(slots), outputs)
        expected, before = y.clone(), y.clone()
        for token, slot in enumerate(slots):
            if slot != NO_ADAPTER:
                expected[token] += scalings[slot] * (lora_b[slot] @ (lora_a[slot] @ x[token]))
        with Operations() as ran:
            masked(x, a_all, b_all, scalings, torch.tensor(slots).to(device), y)
        assert torch.equal(expected, before) or not torch.equal(y, before), (
            f"slots {slots}: y has not changed; add into it, in place")
        for token, slot in enumerate(slots):
            assert torch.equal(y[token], expected[token]), (
                f"slots {slots}: token {token}, slot {slot}, has a wrong row")
        asks = {"_local_scalar_dense", "nonzero", "_unique2"} & set(ran.names)
        assert not asks, f"slots {slots}: right values, but {sorted(asks)} asks the device"
        assert len(slots) <= max_loras or ran.largest < len(slots) * rank * hidden, (
            f"slots {slots}: right values, but a tensor of {ran.largest} values holds a copy of A "
            "for each token")
        counted.append((slots, len(ran.names)))
    fewest, most = min(counted, key=lambda item: item[1]), max(counted, key=lambda item: item[1])
    assert fewest[1] == most[1], (
        f"right values, but {fewest[1]} operations for slots {fewest[0]} and {most[1]} for slots "
        f"{most[0]}: is there a loop?")
    print("passed")


def check_place_of(place_of: Callable[[list[int], int, int], int]) -> None:
    """*Routing on the device*: the place of one token by two counts."""
    for slots in batches():
        permutation = reference.route_by_adapter(slots, 4)["permutation"]
        for token, slot in enumerate(slots):
            found, expected = place_of(list(slots), token, 4), permutation.index(token)
            assert found == expected, (
                f"slots {slots}: token {token}, slot {slot}, belongs to place {expected}, got {found}")
    print("passed")


def check_permutation(permutation_of: Callable[[torch.Tensor, int], torch.Tensor]) -> None:
    """*Routing on the device*: a stable permutation from a kernel, several times over."""
    device = runtime.device()
    for slots in batches() + [[token % 3 - 1 for token in range(33)]]:
        expected = reference.route_by_adapter(slots, 4)["permutation"]
        for _ in range(5 if device.type == "cuda" else 1):
            found = permutation_of(slots_to_device(slots, 4, device), 4).tolist()
            assert found == expected, f"slots {slots}: expected {expected}, got {found}"
    print("passed")


def check_tile_table(tile_table: Callable[[list[int], int, int], list]) -> None:
    """*Routing on the device*: the live tiles of a batch, in a table of fixed length."""
    for slots, block in itertools.product(batches(), (1, 2, 4, 16)):
        routed = reference.route_by_adapter(slots, 4)
        lens, bounds = routed["seg_lens"], routed["seg_indptr"]
        live = [(segment, first) for segment in range(4)
                for first in range(bounds[segment], bounds[segment + 1], block)]
        room = len(slots) // block + 4
        found = [tuple(pair) for pair in tile_table(list(lens), block, room)]
        given = f"seg_lens {lens}, block {block}"
        assert len(found) == room, f"{given}: expected {room} pairs, got {len(found)}"
        assert found[:len(live)] == live, f"{given}: expected {live} first, got {found}"
        assert set(found[len(live):]) <= {(-1, 0)}, f"{given}: the rest must be (-1, 0): {found}"
    print("passed")


def check_tile_columns(first_column: Callable[[int, tuple[int, ...], int], tuple[int, int]]) -> None:
    """*Expand, and stacked slices*: from the number of a column tile to its slice and start."""
    layouts = [((16, 16), 16), ((4096, 1024, 1024), 128), ((40, 24, 24), 16), ((5, 1, 9), 4), ((7,), 4),
               ((3, 3, 3), 16)]
    for sizes, block in layouts:
        expected = [(s, sum(sizes[:s]) + start) for s, size in enumerate(sizes)
                    for start in range(0, size, block)]
        for tile, wanted in enumerate(expected):
            found = tuple(first_column(tile, sizes, block))
            assert found == wanted, (f"slices {sizes}, tiles of {block}: tile {tile} is (slice, first "
                                     f"column) {wanted}, got {found}")
    print("passed")


def check_unpack(unpack: Callable[[torch.Tensor, int, int], object]) -> None:
    """*Expand, and stacked slices*: from a packed slot to one place a slice, in place."""
    device = runtime.device()
    for num_slices, width, rank in ((3, 4, 4), (2, 4, 2), (1, 8, 3), (3, 4, 2), (3, 8, 7), (2, 4, 3)):
        given = f"{num_slices} slices of rank {rank} in a slot {width} wide"
        labels = 100 * torch.arange(num_slices)[:, None] + torch.arange(rank)
        slot = torch.full((num_slices * width, 5), -7.0, device=device)
        slot[:num_slices * rank] = labels.reshape(-1, 1).to(slot)
        unpack(slot, rank, num_slices)
        found = slot.cpu().unflatten(0, (num_slices, width))[:, :rank].long()
        for s in range(num_slices):
            assert torch.equal(found[s], labels[s, :, None].expand(-1, 5)), (
                f"{given}: slice {s} must hold {labels[s].tolist()} from row {s * width} on, "
                f"holds {found[s, :, 0].tolist()} (-7 is an older adapter's)")
    print("passed")


def check_add_scaled(kernel: object) -> None:
    """*Expand, and stacked slices*: the end of expand, in 16 bits with one rounding."""
    device = runtime.device()
    for n, scale in ((64, 1.0), (64, 0.75), (50, 0.75), (1, 0.75)):
        given = f"n {n}, scale {scale}"
        i = torch.arange(64)
        acc = ((i * 7919 % 8191 - 4095) / 2**13).to(device)
        acc[n:] = float("nan")  # nobody's
        out = ((i * 1009 % 4095 - 2047) / 512).half().to(device)
        if n > 1 and scale < 1:
            acc[1], out[1] = 70000.0, 0.0  # above the largest float16; scaled it is not
        wanted = out.clone()
        wanted[:n] = (out[:n].double() + scale * acc[:n].double()).half()
        kernel[(4,)](acc, out, scale, n, BLOCK=16)
        assert torch.equal(out[n:], wanted[n:]), f"{given}: an element from {n} on was written"
        off = (out[:n] != wanted[:n]).nonzero()[:, 0].tolist()
        assert not off, (f"{given}: {len(off)} of {n} elements are not the nearest float16, the first "
                         f"is element {off[0]}: {out[off[0]].item()}, not {wanted[off[0]].item()}")
    print("passed")


def check_masked_rows(masked_rows: Callable[..., object]) -> None:
    """*Shrink*: a kernel for h[t, r] = x[t] . a[r], with NaN in the memory around x and a."""
    device = runtime.device()

    def between_nans(rows: int, columns: int) -> torch.Tensor:
        memory = torch.full((rows * columns + 256,), float("nan"), device=device)
        whole = memory[128:-128].view(rows, columns)
        return whole.copy_(torch.arange(rows * columns).view(rows, columns) % 7 - 3)

    for tokens, ranks, hidden in ((3, 2, 8), (1, 1, 16), (3, 2, 5), (2, 3, 13), (2, 1, 1), (1, 2, 37)):
        x, a = between_nans(tokens, hidden), between_nans(ranks, hidden)
        memory = torch.full((tokens * ranks + 64,), -77.0, device=device)
        masked_rows(x, a, memory[32:-32].view(tokens, ranks))
        found, expected = memory[32:-32].view(tokens, ranks).tolist(), (x @ a.T).tolist()
        for token, rank in itertools.product(range(tokens), range(ranks)):
            assert found[token][rank] == expected[token][rank], (
                f"{tokens} tokens, {ranks} ranks, K {hidden}: h[{token}, {rank}] is "
                f"{found[token][rank]}, not {expected[token][rank]}")
        outside = torch.cat([memory[:32], memory[-32:]])
        assert (outside == -77).all(), (
            f"{tokens} tokens, {ranks} ranks, K {hidden}: something was stored outside of h")
    print("passed")


def check_programs(programs: Callable[..., Sequence[int]]) -> None:
    """*Shrink*: programs launched, live, and with at least one step, for tiles of 16 tokens."""
    lengths = ([4] * 8, [1], [0, 16, 17, 0], [18, 2, 0, 1], [256, 0], [0, 0])
    for seg_lens, hidden, splits in itertools.product(lengths, (4096, 37, 14336), (1, 8, 12, 32)):
        steps = len(range(0, hidden, 128))
        length = math.ceil(steps / splits)
        parts = sum(split * length < steps for split in range(splits))
        max_len = max(sum(seg_lens), 1)
        tiles = sum(len(range(0, tokens, 16)) for tokens in seg_lens)
        expected = len(range(0, max_len, 16)) * len(seg_lens) * splits, tiles * splits, tiles * parts
        found = tuple(programs(list(seg_lens), max_len, hidden, 128, splits))
        for name, wanted, got in zip(("launched", "live", "with a step"), expected, found, strict=True):
            assert got == wanted, (f"seg_lens {seg_lens}, max_len {max_len}, K {hidden} in steps of "
                                   f"128, {splits} splits: {wanted} programs {name}, got {got}")
    print("passed")


def check_add_planes(add_planes: Callable[..., object]) -> None:
    """*Shrink*: planes added up from the first to the last, bit for bit, over what h held before."""
    rng, device = torch.Generator().manual_seed(5), runtime.device()
    for splits, tokens, ranks in ((1, 1, 1), (2, 3, 5), (3, 4, 16), (8, 5, 3), (8, 22, 8)):
        planes = torch.randn(splits, tokens, ranks, generator=rng)
        planes *= 10.0 ** torch.randint(-4, 5, planes.shape, generator=rng)  # every order differs
        expected = planes[0].clone()
        for plane in planes[1:]:
            expected += plane
        memory = torch.full((tokens * ranks + 128,), float("nan"), device=device)
        h = memory[64:-64].view(tokens, ranks)
        given = planes.to(device)
        add_planes(given, h)
        case = f"{splits} planes of {tokens} tokens and {ranks} ranks"
        assert not h.isnan().any(), f"{case}: h still holds the NaN it held before"
        assert memory[:64].isnan().all() and memory[-64:].isnan().all(), (
            f"{case}: something was stored outside of h")
        assert torch.equal(given.cpu(), planes), f"{case}: the planes have changed"
        found = h.cpu()
        assert torch.allclose(found, expected, rtol=1e-3, atol=1.0), f"{case}: wrong sums"
        differ = (found != expected).sum().item()
        assert differ == 0, (f"{case}: right up to rounding, but {differ} of {found.numel()} numbers "
                             "have other bits: another order of addition")
    print("passed")
