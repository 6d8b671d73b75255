"""Checkers for the exercises of *Shrink: a first Triton kernel*."""

import itertools
import math
from collections.abc import Callable, Sequence

import torch

from lorakit import runtime


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
