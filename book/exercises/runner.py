"""Checkers for the exercises of *Static buffers and a graph runner*."""

import bisect
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch

from lorakit import runtime


def check_best_buckets(best_buckets: Callable[[list[int], int], list[int]]) -> None:
    """*Static buffers and a graph runner*: as few padded rows as so many graphs allow."""
    rng = random.Random(251)
    cases = [([3], 1), ([1, 2, 3, 4], 2), ([7, 7, 7, 8, 8, 1], 2), ([5, 9], 4), ([2, 4, 5, 7], 3)]
    cases += [([1, 4, 6, 10], 3), ([2, 6, 8, 12], 3)]
    for _ in range(25):
        few = rng.sample(range(1, 33), k=rng.randint(1, 7))
        cases.append((rng.choices(few, k=rng.randint(1, 20)), rng.randint(1, 4)))
    for sizes, graphs in cases:
        given = f"sizes {sizes}, {graphs} graphs"
        found = list(best_buckets(list(sizes), graphs))
        assert len(found) <= graphs, f"{given}: {found} are {len(found)} buckets"
        assert found == sorted(found), f"{given}: {found} is not sorted"
        assert found and found[-1] >= max(sizes), f"{given}: a batch of {max(sizes)} fits none of {found}"
        distinct = sorted(set(sizes))
        choices = itertools.combinations(distinct[:-1], min(graphs, len(distinct)) - 1)
        best = min(([*choice, distinct[-1]] for choice in choices), key=lambda b: padding(sizes, b))
        assert padding(sizes, found) == padding(sizes, best), (
            f"{given}: {found} pads {padding(sizes, found)} rows, {best} pads {padding(sizes, best)}")
    print("passed")


def padding(sizes: list[int], buckets: list[int]) -> int:
    """Rows that are padded in all."""
    return sum(buckets[bisect.bisect_left(buckets, rows)] - rows for rows in sizes)


@dataclass
class Metadata:
    """What a step of attention reads: `lens` (rows,) and `pages` (rows, columns), both int32."""

    lens: torch.Tensor
    pages: torch.Tensor


def check_refresh(refresh: Callable[[Metadata, Metadata], None]) -> None:
    """*Static buffers and a graph runner*: rewrite a table whose rows and columns both shrink."""
    rng, device = random.Random(252), runtime.device()
    shapes = [(6, 5), (6, 5), (3, 5), (6, 2), (2, 1), (6, 5), (1, 5), (4, 3)]
    shapes += [(rng.randint(1, 6), rng.randint(1, 5)) for _ in range(20)]

    def ints(*shape: int, fill: int) -> torch.Tensor:
        return torch.full(shape, fill, dtype=torch.int32, device=device)

    static = Metadata(ints(6, fill=0), ints(6, 5, fill=-1))
    lens, pages, before = static.lens, static.pages, (0, 0)
    for rows, columns in shapes:
        batch = Metadata(ints(rows, fill=0), ints(rows, columns, fill=0))
        batch.lens += torch.tensor([rng.randint(1, 99) for _ in range(rows)]).to(batch.lens)
        batch.pages += torch.tensor([rng.randint(0, 99) for _ in range(rows * columns)]).to(
            batch.pages).view(rows, columns)
        wanted_lens, wanted_pages = ints(6, fill=0), ints(6, 5, fill=-1)
        wanted_lens[:rows] += batch.lens
        wanted_pages[:rows, :columns].copy_(batch.pages)
        refresh(static, batch)
        given = f"{rows} rows of {columns} pages after {before[0]} rows of {before[1]}"
        for name, held, now, wanted in (("lens", lens, static.lens, wanted_lens),
                                        ("pages", pages, static.pages, wanted_pages)):
            assert now.data_ptr() == held.data_ptr() and now.shape == held.shape, (
                f"{given}: static.{name} is another tensor now; the graph reads the old one")
            assert held.tolist() == wanted.tolist(), (
                f"{given}: {name} is {held.tolist()}, expected {wanted.tolist()}")
        before = rows, columns
    print("passed")


def check_fills(*, scores: float, pages: int, lens: int, done: bool) -> None:
    """*Static buffers and a graph runner*: four fills that no reader takes notice of."""
    rng = random.Random(253)
    for case in range(30):
        rows, sign = rng.randint(1, 6), (1, -1)[case % 2]
        batch = {"scores": torch.tensor([sign * rng.randint(1, 50) / 4 for _ in range(rows)]),
                 "pages": torch.tensor(rng.sample(range(8), k=rows)),
                 "lens": torch.tensor([rng.randint(1, 99) for _ in range(rows)]),
                 "done": torch.tensor([case % 3 == 0 or rng.random() < 0.5 for _ in range(rows)])}
        wanted = run_step(batch)
        for name, fill in (("scores", scores), ("pages", pages), ("lens", lens), ("done", done)):
            given = f"{rows} requests, {name} {batch[name].tolist()} padded with {fill}"
            safe = {"scores": float("-inf"), "pages": 8, "lens": 0, "done": True} | {name: fill}
            try:
                found = run_step({key: torch.cat([value, torch.full((3,), safe[key], dtype=value.dtype)])
                                  for key, value in batch.items()})
            except (IndexError, RuntimeError) as refused:
                raise AssertionError(f"{given}: {str(refused).splitlines()[0]}") from None
            for what, value, right in zip(("cache", "scores.max()", "lens.sum()", "done.all()"),
                                          found, wanted):
                assert value == right, f"{given}: {what} is {value}, without padding {right}"
    print("passed")


def run_step(batch: dict[str, torch.Tensor]) -> list:
    """The exercise's step: the pages of requests afterwards, and what it returns."""
    cache = torch.arange(100.0, 109.0)
    cache.index_copy_(0, batch["pages"], batch["scores"])
    return [cache[:8].tolist(), batch["scores"].max().item(), batch["lens"].sum().item(),
            batch["done"].all().item()]
