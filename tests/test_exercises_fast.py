"""The checkers of *How fast can it go?*: the solutions pass, the answers that readers give do not."""

import pytest

from book import exercises
from book.exercises.fast import layer_sums, replaced
from lorakit.kernels import tiles


def floor(slots, ranks, hidden, sizes, rate, shared=True, only_used=True, all_x=False, slices_a=None,
          outputs=2, slices_x=1, width=False, idle=False):
    working = [s for s in slots if s >= 0 and (idle or ranks[s] > 0)]
    owners = set(working) if shared else working
    owners = owners if only_used else range(len(ranks))
    rank_of = (lambda s: max(ranks)) if width else ranks.__getitem__
    values = sum(map(rank_of, owners)) * ((slices_a or len(sizes)) * hidden + sum(sizes))
    values += (len(slots) if all_x else len(working)) * hidden * (len(sizes) if slices_x else 1)
    values += len(working) * outputs * sum(sizes)
    return 2 * values / rate


def right_floor(*case):
    return floor(*case, slices_x=0)


def early(before, loads):
    running = set()
    for writes, pdl in reversed(before):
        running |= writes
        if not pdl:
            break
    return [name for name in loads if name not in running]


def early_after_the_last(before, loads):  # right for two launches
    return [name for name in loads if not before or name not in before[-1][0]]


def early_to_the_first_plain(before, loads):  # stops one too soon
    running = set()
    for writes, pdl in reversed(before):
        if not pdl:
            break
        running |= writes
    return [name for name in loads if name not in running]


def early_if_never_written(before, loads):  # right, and waits for more than it must
    return [name for name in loads if not any(name in writes for writes, _ in before)]


def early_weights(before, loads):
    return [name for name in loads if name in ("A", "B", "seg_indptr")]


def masks(ranks, rank, width, group=8):
    return (ranks // group * group < rank) & (ranks < width), ranks < rank


@pytest.mark.parametrize("checker, answer", [
    (exercises.check_floor, right_floor), (exercises.check_early, early),
    (exercises.check_early, lambda before, loads: reversed(early(before, loads))),
    (exercises.check_masks, masks)])
def test_the_solution_passes(checker, answer, capsys):
    checker(answer)
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.parametrize("message, answer", [
    (r"slots \[0, 0, 0, 0\]", lambda *c: floor(*c, slices_x=0, shared=False)),  # right for distinct ones
    (r"slots \[1, 1\]", lambda *c: floor(*c, slices_x=0, only_used=False)),
    (r"slots \[0, -1, 0\]", lambda *c: floor(*c, slices_x=0, all_x=True)),
    (r"\(4096, 1024, 1024\)", lambda *c: floor(*c, slices_x=0, slices_a=1)),  # right for one slice
    (r"\(4096, 1024, 1024\)", lambda *c: floor(*c, slices_x=1)),  # x once for each slice
    (r"slots \[0\]", lambda *c: floor(*c, slices_x=0, outputs=1)),  # written, and not read
    (r"ranks \[16, 64\]", lambda *c: floor(*c, slices_x=0, width=True)),
    (r"ranks \[0, 8\]", lambda *c: floor(*c, slices_x=0, idle=True)),
    (r"slots \[0\]", lambda *c: right_floor(*c) / 2),  # values, not bytes
])
def test_a_wrong_floor_is_refused(message, answer, capsys):
    with pytest.raises(AssertionError, match=message):
        exercises.check_floor(answer)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("message, answer", [
    (r"early kernel writes \['h'\].*'y' may still be written", early_after_the_last),
    ("'h' may still be written", early_to_the_first_plain),
    ("'out' is there already", early_if_never_written),
    ("'out' is there already", early_weights),
    ("'h' may still be written", lambda before, loads: loads),
    ("'seg_indptr' is there already", lambda before, loads: []),
    ("not among the loads", lambda before, loads: [*early(before, loads), "W"]),
])
def test_a_wrong_order_of_loads_is_refused(message, answer, capsys):
    with pytest.raises(AssertionError, match=message):
        exercises.check_early(answer)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("message, answer", [
    ("read in part", lambda r, rank, width: (r < rank, r < rank)),  # right, two bytes a load
    ("NaN of rank 1", lambda r, rank, width: (masks(r, rank, width)[0],) * 2),
    ("none of them is used", lambda r, rank, width: (r < width, r < rank)),
    ("read in part", lambda r, rank, width: masks(r, rank, width, group=4)),
    ("none of them is used", lambda r, rank, width: ((r // 8 * 8 <= rank) & (r < width), r < rank)),
    ("rank 0 does not reach", lambda r, rank, width: (r < rank // 8 * 8, r < rank)),
    ("rank 9 in a slot of width 12: place .12. is read",  # right for every width of whole groups
     lambda r, rank, width: (r // 8 * 8 < rank, r < rank)),
    ("16 truth values", lambda r, rank, width: ((r < rank).float(), r < rank)),
])
def test_wrong_masks_are_refused(message, answer, capsys):
    with pytest.raises(AssertionError, match=message):
        exercises.check_masks(answer)
    assert capsys.readouterr().out == ""


def test_functions_are_replaced_and_come_back_after_an_error():
    before = tiles.column_steps, tiles.token_block
    with pytest.raises(ZeroDivisionError):
        with replaced(7, "kernels.tiles.column_steps", "kernels.tiles.token_block"):
            assert tiles.column_steps(1, 2, 3) == 7 == tiles.token_block(1)
            1 / 0
    assert (tiles.column_steps, tiles.token_block) == before


def test_a_layers_sum_takes_one_peer_for_all_its_projections():
    case = lambda tokens, ours, **peers: {  # noqa: E731
        "tokens": tokens, "ours_us": ours, "floor_us": ours / 2, "peers": peers}
    cases = [case(1, 2.0, a=4.0, b=3.0), case(8, 6.0, a=9.0), case(1, 4.0, a=5.0)]  # b refused one
    assert list(layer_sums(cases, "tokens")) == [((1,), 6.0, 9.0, 3.0, "a"), ((8,), 6.0, 9.0, 3.0, "a")]
