"""Checkers for the exercises of *Expand, and stacked slices*."""

from collections.abc import Callable

import torch

from lorakit import runtime


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
