"""*The guest from the base model*: its classes, its regression test, and its checkers."""

from itertools import accumulate
from types import SimpleNamespace

import pytest
import torch

from book import detective, exercises
from book.exercises.guest import lost
from lorakit import runtime
from lorakit.capture import lint
from test_exercises_grid import page_of

PAGE = "303_the_guest_from_the_base_model"
pytestmark = pytest.mark.kernels


@pytest.fixture
def page():
    return page_of(PAGE)


# -- the classes of the page ----------------------------------------------------------------------------

@pytest.mark.parametrize("slots, got", [
    ([0, 1], [10, 20]), ([0, 1, 2, 3], [10, 20, 30, 40]), ([0, 1, 2], [10, 20, 30]),
    ([-1, 0, 1, 2], [0, 10, 20, 30]), ([-1, 0, 1], [0, 10, 0]), ([0, -1, 3, -1], [10, 0, 0, 0]),
    ([-1, 0], [0, 0]), ([-1, 0, 1, 2, 3], [0, 10, 20, 30, 0]), ([-1, -1], [0, 0])])
def test_broken_loses_the_last_group(page, slots, got):
    server = page["Broken"]()
    assert detective.read(server.serve(slots)) == got
    wrong = {slot for slot, mine, right in zip(slots, got, detective.expected(slots)) if mine != right}
    assert page["predicted"](slots) == wrong


@pytest.mark.parametrize("name, red", [("Broken", "slots [-1, 0]"), ("Counts", "slots [-1, 0, 1, 2, 3]"),
                                       ("Last", None), ("Fixed", None)])
def test_the_regression_test(page, name, red):
    server = page[name]()
    if red is None:
        page["regression_test"](server)
        return
    with pytest.raises(AssertionError) as raised:
        page["regression_test"](server)
    assert str(raised.value).startswith(red + ":")


@pytest.mark.parametrize("batches", ["mixed", "no_guests"])
def test_the_step_of_the_case_is_right_and_lint_has_nothing_to_say(page, batches):
    held = SimpleNamespace(device=runtime.device())
    for i in range(5):
        on_device, slots, _ = given = page[batches](i, held)
        assert detective.read(page["step"](*given)) == detective.expected(slots)
        assert (-1 in slots) <= (batches == "mixed")
    held = SimpleNamespace(device=torch.device("cpu"))
    report = lint(page["step"], *page[batches](0, held), other=lambda: page[batches](2, held))
    assert not report.breaks and not report.frozen, report


def test_the_mixed_batches_hold_one_that_broken_serves_wrongly(page):
    """Else assert_graph_safe, which serves the first four of them, could not see it."""
    def company(i):
        return page["mixed"](i, SimpleNamespace(device=torch.device("cpu"), layer=None))[1]
    assert any(page["predicted"](company(i)) for i in range(4))


# -- check_guest ----------------------------------------------------------------------------------------

def variants(page):
    Broken, Last, group = page["Broken"], page["Last"], page["group"]

    class FourGraphs(Broken):
        """Counts groups, and has a graph for all five."""
        def __init__(self):
            super().__init__()
            self.graphs[5] = self.capture([-1, 0, 1, 2, 3])

        def serve(self, slots):
            self.refresh(slots)
            self.graphs[min(key for key in self.graphs if key >= self.groups)].graph.replay()
            return self.out[:len(slots)].clone()

    class NoGroup(Broken):
        """Guests have no group at all."""
        def refresh(self, slots):
            owners = sorted({*slots} - {-1})
            order = sorted((i for i, slot in enumerate(slots) if slot >= 0), key=slots.__getitem__)
            bounds = [0, *accumulate(slots.count(slot) for slot in owners)]
            self.groups, spare = len(owners), 5 - len(owners)
            detective.write(self.owners, owners + [-1] * spare)
            detective.write(self.bounds, bounds + [bounds[-1]] * spare)
            detective.write(self.order, order)

    class OneForAll(Broken):
        """One graph of five groups for every batch."""
        def __init__(self):
            super().__init__()
            self.graphs = dict.fromkeys(self.graphs, self.capture([-1, 0, 1, 2, 3]))

    class Reads(page["Fixed"]):
        def serve(self, slots):
            return detective.read(super().serve(slots))

    class Raises(Broken):  # counts groups, without a graph for five
        def serve(self, slots):
            self.refresh(slots)
            key = min(key for key in self.graphs if key >= self.groups)
            self.graphs[key].graph.replay()
            return self.out[:len(slots)].clone()

    class OnlyTheLargest(Broken):
        """A guest in one dummy only: the finding of the review, the other way round."""
        dummy = staticmethod(lambda key: [-1] * (key == 4) + [*range(key)])

    class OneForGuests(Broken):
        """A graph more when a guest is there, and never more than there are."""
        def serve(self, slots):
            self.refresh(slots)
            need = len({*slots} - {-1}) + (-1 in slots)
            self.graphs[1 if need <= 1 else 2 if need == 2 else 4].graph.replay()
            return self.out[:len(slots)].clone()

    class Eager(Broken):
        def serve(self, slots):
            self.refresh(slots)
            self.step()
            return self.out[:len(slots)].clone()

    class CapturesAgain(Broken):
        def serve(self, slots):
            self.capture(slots).graph.replay()
            return self.out[:len(slots)].clone()

    return locals()


@pytest.mark.parametrize("name", ["Fixed", "Last"])
def test_check_guest_passes_the_pages_repairs(page, name, capsys):
    exercises.check_guest(page[name])
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.parametrize("name", ["FourGraphs", "NoGroup", "OneForAll", "Reads"])
def test_check_guest_passes_other_right_answers(page, name):
    exercises.check_guest(variants(page)[name])


@pytest.mark.parametrize("name, says", [
    ("Broken", "wrong for slots [0], with 1 adapters and a guest"),
    ("Counts", "wrong for slots [3], with 4 adapters and a guest"),
    ("OnlyTheLargest", "with 1 adapters and a guest"),
    ("OneForGuests", "with 4 adapters and a guest"),
    ("Eager", "serve called step"), ("CapturesAgain", "serve called step")])
def test_check_guest_refuses(page, name, says):
    with pytest.raises(AssertionError) as raised:
        exercises.check_guest(page.get(name) or variants(page)[name])
    assert says in str(raised.value)


def test_check_guest_meets_four_adapters_and_a_guest(page):
    with pytest.raises(ValueError):  # min() of nothing
        exercises.check_guest(variants(page)["Raises"])


# -- check_lost -----------------------------------------------------------------------------------------

def plans(page):
    return [page[f"plan_{letter}"] for letter in "abcd"]


@pytest.mark.parametrize("c, d", [
    ([-1, 0, 1, 2, 3], [0]), ([3, 2, 1, 0, -1, -1], [2, 3]), ([0, 1, 2, 3, -1, -1, -1, -1], [0, 1, 2, 3])])
def test_check_lost_passes(page, c, d, capsys):
    exercises.check_lost(*zip(plans(page), (None, None, c, d)))
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.parametrize("answers, says", [
    ((None, None, [-1, 0, 1, 2, 3], None), "plan_d does lose an adapter"),
    ((None, None, [-1, 0], [0]), "plan_c is right for [-1, 0]"),  # the server's own fault
    ((None, None, [-1, 0, 1, 2, 3], [-1, 0]), "plan_d is right for [-1, 0]"),  # a guest repairs it
    ((None, [-1, 0], [-1, 0, 1, 2, 3], [0]), "plan_b is right"),
    (([-1, 0], None, [-1, 0, 1, 2, 3], [0]), "plan_a is right"),
    ((None, None, None, [0]), "plan_c does lose an adapter, and a batch of 5 tokens"),
    ((None, None, [-1, 0, 1, 2, 3], [0] * 9), "9 tokens"),
    ((None, None, [-1, 0, 1, 2, 4], [0]), "slots are")])
def test_check_lost_refuses(page, answers, says):
    with pytest.raises(AssertionError) as raised:
        exercises.check_lost(*zip(plans(page), answers))
    assert says in str(raised.value)


def test_lost_is_what_the_server_loses(page):
    """Broken's own plan, against the page's prediction."""
    def plan(slots):
        return page["group"](slots)[0], min(key for key in page["KEYS"] if key >= len({*slots} - {-1}))
    for slots in ([-1, 0], [0, 1], [-1, 0, 1, 2], [-1, 3, 1]):
        assert set(lost(plan, slots)) == page["predicted"](slots)
