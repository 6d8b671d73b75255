"""Each checker passes the solution and refuses the wrong answers that readers give."""

import pytest
import torch

from lorakit import exercises, reference, slots_to_device
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


RIGHT = [
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
