"""The checkers of *The silent rules* pass the solution and refuse the wrong answers that readers give."""

import pytest
import torch

from book import exercises
from book.exercises.silent_rules import BATCHES, BROKEN, eager, replayed


class Server:
    """The chapter's, broken."""

    def __init__(self, where):
        self.delta = torch.tensor([10.0, 20.0, 30.0], device=where)
        self.slots = torch.zeros(4, dtype=torch.int64, device=where)
        self.tokens, self.scale, self.steps, self.kept = 4, 1.0, 0, []

    def step(self):
        self.steps += 1
        self.total = (self.delta[self.slots[:self.tokens]] * self.scale).sum()

    def serve(self, run, slots, scale):
        self.tokens, self.scale = len(slots), scale
        self.slots[:self.tokens].copy_(torch.tensor(slots))
        run()
        self.kept.append(self.total)
        return self.total.item()


class Repaired(Server):
    def __init__(self, where):
        super().__init__(where)
        self.delta = torch.tensor([10.0, 20.0, 30.0, 0.0], device=where)
        self.factor = torch.ones(1, device=where)

    def step(self):
        self.total = (self.delta[self.slots] * self.factor).sum()

    def serve(self, run, slots, scale):
        self.steps += 1
        self.write(slots, scale)
        run()
        self.kept.append(self.keep())
        return self.total.item()

    def write(self, slots, scale):
        self.factor.fill_(scale)
        self.slots.fill_(3)
        self.slots[:len(slots)].copy_(torch.tensor(slots))

    def keep(self):
        return self.total.clone()


class Masked(Repaired):
    """Another right one: the number of tokens on the device, and numbers kept in place of tensors."""

    def __init__(self, where):
        super().__init__(where)
        self.count, self.places = torch.zeros(1, device=where), torch.arange(4, device=where)

    def step(self):
        each = torch.where(self.places < self.count, self.delta[self.slots], 0.0)
        self.total = (each * self.factor).sum()

    def write(self, slots, scale):
        self.factor.fill_(scale)
        self.count.fill_(len(slots))
        self.slots[:len(slots)].copy_(torch.tensor(slots))

    def keep(self):
        return self.total.item()


class KeepsTheTail(Repaired):
    def write(self, slots, scale):
        self.factor.fill_(scale)
        self.slots[:len(slots)].copy_(torch.tensor(slots))


class ClearsTheTailToZero(Repaired):
    def write(self, slots, scale):
        super().write(slots, scale)
        self.slots[len(slots):].zero_()  # slot 0 is somebody's


class KeepsTheScale(Repaired):
    def step(self):
        self.total = (self.delta[self.slots] * self.scale).sum()


class RebindsTheScale(Repaired):
    def write(self, slots, scale):
        super().write(slots, scale)
        self.old, self.factor = self.factor, torch.full_like(self.factor, scale)
        self.old.fill_(1.0)


class KeepsOneTensor(Repaired):  # right whenever each result is looked at at once
    def keep(self):
        return self.total


class CountsInTheStep(Repaired):
    def step(self):
        self.steps += 1
        super().step()

    def serve(self, run, slots, scale):
        found = super().serve(run, slots, scale)
        self.steps -= 1
        return found


class RunsEagerly(Repaired):
    def serve(self, run, slots, scale):
        return super().serve(self.step, slots, scale)


def tail(seg_indptr, weight_indices, segments):
    seg_indptr[segments + 1:].copy_(seg_indptr[segments])
    weight_indices[segments:].zero_()


def tail_by_assignment(seg_indptr, weight_indices, segments):
    seg_indptr[segments + 1:] = seg_indptr[segments]
    weight_indices[segments:] = 0


def tail_of_slots_only(seg_indptr, weight_indices, segments):
    weight_indices[segments:].zero_()


def tail_of_no_adapter(seg_indptr, weight_indices, segments):
    seg_indptr[segments + 1:].copy_(seg_indptr[segments])
    weight_indices[segments:].fill_(-1)  # this kernel does not look whether a slot exists


def tail_of_bounds_only(seg_indptr, weight_indices, segments):
    seg_indptr[segments + 1:].copy_(seg_indptr[segments])


def tail_of_zeros(seg_indptr, weight_indices, segments):  # this kernel would stop
    seg_indptr[segments + 1:].zero_()
    weight_indices[segments:].zero_()


def tail_that_asks(seg_indptr, weight_indices, segments):  # right values
    seg_indptr[segments + 1:].fill_(int(seg_indptr[segments]))
    weight_indices[segments:].zero_()


def tail_one_too_early(seg_indptr, weight_indices, segments):
    seg_indptr[segments:].copy_(seg_indptr[segments - 1].clone())
    weight_indices[segments:].zero_()


@pytest.mark.parametrize("answer", [Repaired, Masked])
def test_right_servers_pass(answer, capsys):
    exercises.check_server(answer)
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.parametrize("answer, message", [
    (Server, r"batch 1, slots \[1\], scale 1.0: serve gave 100.0, not 20.0"),
    (KeepsTheTail, "batch 1, .* serve gave 100.0, not 20.0"),
    (ClearsTheTailToZero, "batch 1, .* serve gave 50.0, not 20.0"),
    (KeepsTheScale, "batch 2, .* serve gave 20.0, not 40.0"),
    (RebindsTheScale, "batch .* serve gave"),  # on a GPU the graph reads freed memory: any number
    (KeepsOneTensor, r"batch 0, .* serve gave 90.0, and afterwards kept holds"),
    (CountsInTheStep, "steps went up by 0"),
    (RunsEagerly, "batch 0, .*: serve must call run once"),
])
def test_wrong_servers_are_refused(answer, message, capsys):
    with pytest.raises(AssertionError, match=message):
        exercises.check_server(answer)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("answer", [tail, tail_by_assignment])
def test_right_tails_pass(answer, capsys):
    exercises.check_tail(answer)
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.parametrize("answer, message", [
    (tail_of_slots_only, r"program 2 is behind the batch and adds slot 0 to tokens \[3"),
    (tail_of_no_adapter, "program 2 reads adapter -1 of 3"),
    (tail_of_bounds_only, "program 2 reads adapter 7 of 3"),
    (tail_of_zeros, "go down behind the batch"),
    (tail_that_asks, "right values, but .* asks the device"),
    (tail_one_too_early, "the batch itself was changed"),
])
def test_wrong_tails_are_refused(answer, message, capsys):
    with pytest.raises(AssertionError, match=message):
        exercises.check_tail(answer)
    assert capsys.readouterr().out == ""


def test_the_right_rules_pass(capsys):
    exercises.check_rules(**BROKEN)
    exercises.check_rules(**{name: rule.lower() for name, rule in BROKEN.items()})
    assert capsys.readouterr().out == "passed\n" * 2


@pytest.mark.parametrize("name, wrong", [
    (name, rule) for name, right in BROKEN.items() for rule in BROKEN.values() if rule != right])
def test_a_wrong_rule_is_refused_with_a_batch_that_speaks_against_it(name, wrong, capsys):
    with pytest.raises(AssertionError, match=f"{name} is not {wrong}: for slots"):
        exercises.check_rules(**BROKEN | {name: wrong})
    assert capsys.readouterr().out == ""


def test_a_missing_or_an_unknown_rule_is_named():
    with pytest.raises(AssertionError, match="B: None is not among S1, S10, S13, S2, S3"):
        exercises.check_rules(A="S13")
    with pytest.raises(AssertionError, match="A: 'S8' is not among"):
        exercises.check_rules(**BROKEN | {"A": "S8"})


def test_the_evidence_can_be_told_apart():
    outputs = [replayed(rule) for rule in BROKEN.values()]
    assert replayed(None) == eager()
    for i, one in enumerate(outputs):
        assert one != eager()
        assert all(one != other for other in outputs[:i])


def test_the_evidence_is_printed_batch_by_batch(capsys):
    exercises.evidence()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(BATCHES) + 1
    assert all(str(slots) in line for (slots, _), line in zip(BATCHES, lines[1:]))
