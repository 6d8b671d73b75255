"""The checkers of *Overlap*, and what its experiments need."""

import pytest
import torch

from book import exercises
from book.exercises import overlap


def longest_path(after, us):
    def end(work):
        return us[work] + max(map(end, after[work]), default=0)
    return max(map(end, after))


def in_the_order_given(after, us):  # right while each work stands behind what it waits for
    ends = {}
    for work, before in after.items():
        ends[work] = us[work] + max((ends.get(first, 0) for first in before), default=0)
    return max(ends.values())


def by_the_longest_parent(after, us):  # right while the longer parent is on the longer path
    def end(work):
        return us[work] + (end(max(after[work], key=us.get)) if after[work] else 0)
    return max(map(end, after))


def up_to_expand(after, us):  # right while one work is the last
    last = next(reversed(after))
    def end(work):
        return us[work] + max(map(end, after[work]), default=0)
    return end(last)


@pytest.mark.parametrize("answer", [longest_path, lambda a, u: float(longest_path(a, u))])
def test_the_longest_path_passes(answer, capsys):
    exercises.check_longest_path(answer)
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.parametrize("answer, message", [
    (lambda after, us: sum(us.values()), "takes 26, got 30"),
    (lambda after, us: max(us.values()), "takes 26, got 20"),
    (lambda after, us: sum(us.values()) - min(us.values()), "takes 12, got 19"),
    (in_the_order_given, r"after \{'expand'"),
    (by_the_longest_parent, "takes 12, got 11"),
    (up_to_expand, "takes"),
    (lambda after, us: longest_path(after, us) - 1, "takes 26, got 25"),
])
def test_another_path_is_refused(answer, message, capsys):
    with pytest.raises(AssertionError, match=message):
        exercises.check_longest_path(answer)
    assert capsys.readouterr().out == ""


FORK, JOIN = "side waits origin", "origin waits side"


def forked(projections, calls=(FORK, "side runs shrink", "origin runs base", JOIN, "origin runs expand")):
    return [call if "waits" in call else f"{call} {name}" for name in projections for call in calls]


def fork_once(projections):  # right for one projection
    return [FORK, *(call for call in forked(projections) if call != FORK)]


def all_shrinks_first(projections):  # right for one projection
    return [FORK, *(f"side runs shrink {name}" for name in projections), JOIN,
            *(f"origin runs {part} {name}" for name in projections for part in ("base", "expand"))]


def join_once(projections):
    return [*(call for call in forked(projections) if call != JOIN), JOIN]


@pytest.mark.parametrize("answer", [
    forked,
    lambda names: forked(names, (FORK, "origin runs base", "side runs shrink", JOIN, "origin runs expand")),
    lambda names: forked(names, (FORK, "side runs base", "origin runs shrink", JOIN, "origin runs expand")),
    lambda names: [FORK, *forked(names, ("side runs shrink", "origin runs base", FORK, "side runs expand",
                                         JOIN))],
    lambda names: [*forked(names), FORK, JOIN],
])
def test_a_schedule_that_overlaps_passes(answer, capsys):
    exercises.check_forked(answer)
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.parametrize("answer, message", [
    (fork_once, "nothing orders 'expand qkv', which writes its x, before 'shrink o'"),
    (all_shrinks_first, "before 'shrink o'|cannot overlap"),
    (join_once, "nothing orders 'shrink o' before 'expand o'"),
    (lambda names: [c for c in forked(names) if c != JOIN], "not joined at the end, L6"),
    (lambda names: [c for c in forked(names) if c not in (FORK, JOIN)], "at once, S6"),
    (lambda names: [c for c in forked(names) if c != FORK], "at once, S6"),
    (lambda names: [JOIN, *forked(names)], "was not forked, L7"),
    (lambda names: [c.replace("side runs", "origin runs") for c in forked(names)], "cannot overlap"),
    (lambda names: forked(names, ("origin runs base", FORK, "side runs shrink", JOIN,
                                  "origin runs expand")), "cannot overlap"),
    (lambda names: forked(names, (FORK, "side runs shrink", JOIN, "origin runs base",
                                  "origin runs expand")), "cannot overlap"),
    (lambda names: forked(names, (FORK, "side runs shrink", "side runs expand", "origin runs base", JOIN)),
     "nothing orders 'base o' before 'expand o'"),
    (lambda names: forked(names, (FORK, "side runs shrink", "origin runs base", JOIN)), "does not run"),
    (lambda names: forked(names) + ["origin runs base o"], "runs twice"),
    (lambda names: ["fork", *forked(names)], "is neither"),
    (lambda names: ["origin runs lora o"], "the layer has"),
])
def test_a_schedule_without_an_edge_is_refused(answer, message, capsys):
    with pytest.raises(AssertionError, match=message):
        exercises.check_forked(answer)
    assert capsys.readouterr().out == ""


def best(us, edges=1, moved=1, add=1, beside=max, ways=overlap.WAYS):
    base, shrink, expand = us["base"], us["shrink"], us["expand"]
    busy, extra = base + moved * us["shrink_bytes"], edges * us["edges"]
    times = {"in line": base + shrink + expand, "forked": beside(busy, shrink) + expand + extra,
             "delta": beside(busy + moved * us["expand_bytes"], shrink + expand) + add * us["add"] + extra}
    return min(ways, key=times.get)


def test_the_best_arrangement_passes(capsys):
    exercises.check_best(best)
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.parametrize("answer", [
    lambda us: best(us, edges=0), lambda us: best(us, moved=0), lambda us: best(us, add=0),
    lambda us: best(us, beside=lambda a, b: a), lambda us: best(us, beside=lambda a, b: a + b),
    lambda us: best(us, ways=overlap.WAYS[::-1]), lambda us: best(us, ways=overlap.WAYS[:2]),
    lambda us: "forked", lambda us: "delta", lambda us: "in line", lambda us: min(us, key=us.get),
    lambda us: "forked" if us["shrink"] > us["edges"] else "in line",
])
def test_another_choice_is_refused(answer, capsys):
    with pytest.raises(AssertionError, match=r"in line \d.*forked \d.*delta \d.*got"):
        exercises.check_best(answer)
    assert capsys.readouterr().out == ""


# -- what the experiments need ----------------------------------------------------------------------------

def test_the_rows_of_the_exercise_hold_each_answer():
    rows = []
    exercises.check_best(lambda us: rows.append(overlap.best_of(us)) or rows[-1])
    assert set(rows) == set(overlap.WAYS)


@pytest.mark.parametrize("name, part", [
    ("shrink_token_kernel", "shrink"), ("expand_kernel", "expand"), ("linear_kernel", "linear"),
    ("nvjet_tst_64x8_64x16_4x1_v_bz_TNT", "base"), ("kernel", "base")])
def test_a_kernel_is_known_by_its_name(name, part):
    assert overlap.label(name) == part


def problem(tokens):
    sizes = {"qkv": (48, (40, 24)), "o": (40, (56,))}
    layers = overlap.problems(overlap.random_weights(sizes, 4, 16, torch.float32), tokens, ["qkv"])
    return layers[0][0]


def test_the_problems_share_inputs_and_differ_in_weights():
    sizes = {"qkv": (48, (40, 24)), "o": (40, (56,))}
    layers = overlap.problems(overlap.random_weights(sizes, 4, 16, torch.float32), 8, ["o", "qkv"])
    assert len(layers) == 16 and all(len(layer) == 2 for layer in layers)
    assert len({layer[1].w.data_ptr() for layer in layers}) == 4
    assert len({layer[1].lora.lora_a.data_ptr() for layer in layers}) == 16
    assert len({layer[1].x.data_ptr() for layer in layers}) == 1
    p = layers[3][0]
    assert (p.x.shape, p.out.shape, p.w.shape) == ((8, 40), (8, 56), (56, 40))
    assert p.slots == [0, 0, 1, 1, 2, 2, 3, 3] and p.batch.seg_indptr.tolist() == [0, 2, 4, 6, 8]
    assert p.out.data_ptr() != p.delta.data_ptr()


@pytest.mark.kernels
@pytest.mark.parametrize("tokens", [1, 8, 32])
def test_the_halves_are_those_of_lora_linear(tokens):
    from lorakit.kernels import tiles
    from lorakit.ops import lora_linear
    p, before = problem(tokens), tiles.has_pdl
    p.out.normal_()
    wanted = lora_linear(p.x, p.lora, p.batch, p.out.clone())
    first, second = overlap.halves(p)
    h = first(p.x, p.lora.lora_a, p.batch)
    overlap.ordered(second, h, p.lora.lora_b, p.out, p.batch, p.lora.slice_sizes)
    assert torch.equal(p.out, wanted) and tiles.has_pdl is before


def test_ordered_puts_the_switch_back_after_an_error():
    tiles = pytest.importorskip("lorakit.kernels.tiles", exc_type=ImportError)
    before = tiles.has_pdl

    def fails():
        assert not tiles.has_pdl(torch.device("cuda"))
        raise ValueError

    with pytest.raises(ValueError):
        overlap.ordered(fails)
    assert tiles.has_pdl is before


@pytest.mark.gpu
def test_the_edges_of_a_fork_and_a_join():
    from lorakit.capture import attempt
    x, side = torch.zeros(8, device="cuda"), torch.cuda.Stream()

    def step():
        current = torch.cuda.current_stream()
        x.add_(1)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            x.mul_(2)
        current.wait_stream(side)
        x.add_(3)

    step()
    found = overlap.edges(attempt(step).graph)
    assert set(found) == {("base", "base", "full")} and len(found) in (2, 3)  # one more may be kept
