"""The checkers of *Static buffers and a graph runner* pass the solution and refuse wrong answers."""

import itertools
from collections import Counter

import pytest
import torch

from book import exercises
from book.exercises.runner import padding


def best(sizes, graphs):
    lists = itertools.combinations_with_replacement(sorted(set(sizes)), graphs)
    fitting = [sorted(set(buckets)) for buckets in lists if buckets[-1] == max(sizes)]
    return min(fitting, key=lambda buckets: padding(sizes, buckets))


def most_frequent(sizes, graphs):  # right where each size has a graph
    chosen = [size for size, _ in Counter(sizes).most_common(graphs)]
    return sorted({*chosen[:graphs - 1], max(sizes)})


def greedy(sizes, graphs):  # never takes back what it has chosen: right for one or two graphs
    buckets = [max(sizes)]
    for _ in range(graphs - 1):
        buckets = min((sorted({*buckets, size}) for size in sizes), key=lambda b: padding(sizes, b))
    return buckets


def evenly(sizes, graphs):
    top = max(sizes)
    return sorted({-(-top * (i + 1) // graphs) for i in range(graphs)})


def refresh(static, batch):
    rows, columns = batch.pages.shape
    static.lens.zero_()
    static.lens[:rows].copy_(batch.lens)
    static.pages.fill_(-1)
    static.pages[:rows, :columns].copy_(batch.pages)


def rows_only(static, batch):  # right while all batches have one width
    rows, columns = batch.pages.shape
    static.lens[:rows].copy_(batch.lens)
    static.lens[rows:].zero_()
    static.pages[:rows, :columns].copy_(batch.pages)
    static.pages[rows:].fill_(-1)


def no_tail(static, batch):  # right while batches grow
    rows, columns = batch.pages.shape
    static.lens[:rows].copy_(batch.lens)
    static.pages[:rows, :columns].copy_(batch.pages)


def rebound(static, batch):  # right without a graph
    fresh = torch.full_like(static.pages, -1)
    fresh[:len(batch.pages), :batch.pages.shape[1]].copy_(batch.pages)
    static.lens[:len(batch.lens)].copy_(batch.lens)
    static.lens[len(batch.lens):].zero_()
    static.pages = fresh


def zeros(static, batch):  # 0 is a page
    refresh(static, batch)
    static.pages[len(batch.pages):].zero_()


FILLS = {"scores": float("-inf"), "pages": 8, "lens": 0, "done": True}


def with_fill(**fill):
    return lambda: exercises.check_fills(**FILLS | fill)


RIGHT = [lambda: exercises.check_best_buckets(best), lambda: exercises.check_refresh(refresh),
         with_fill(), with_fill(scores=-1e9)]
WRONG = [
    ("pads", lambda: exercises.check_best_buckets(most_frequent)),
    ("pads", lambda: exercises.check_best_buckets(greedy)),
    ("pads", lambda: exercises.check_best_buckets(evenly)),
    ("fits none", lambda: exercises.check_best_buckets(lambda sizes, graphs: sorted(set(sizes))[:graphs])),
    ("buckets", lambda: exercises.check_best_buckets(lambda sizes, graphs: sorted(set(sizes)))),
    ("not sorted", lambda: exercises.check_best_buckets(
        lambda sizes, graphs: best(sizes, graphs)[::-1])),
    ("6 rows of 2 pages after 3 rows of 5: pages", lambda: exercises.check_refresh(rows_only)),
    ("3 rows of 5 pages after 6 rows of 5: lens", lambda: exercises.check_refresh(no_tail)),
    ("static.pages is another tensor", lambda: exercises.check_refresh(rebound)),
    ("pages is", lambda: exercises.check_refresh(zeros)),
    (r"scores.max\(\) is 0", with_fill(scores=0.0)),  # right while a score is positive
    (r"padded with 0: cache", with_fill(pages=0)),
    (r"padded with 7: cache", with_fill(pages=7)),
    ("padded with -1", with_fill(pages=-1)),
    (r"lens.sum\(\)", with_fill(lens=1)),
    (r"done.all\(\) is False", with_fill(done=False)),
]


@pytest.mark.parametrize("answer", RIGHT)
def test_the_solution_passes(answer, capsys):
    answer()
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.parametrize("message, answer", WRONG)
def test_a_wrong_answer_is_refused_and_told_why(message, answer, capsys):
    with pytest.raises(AssertionError, match=message):
        answer()
    assert capsys.readouterr().out == ""
