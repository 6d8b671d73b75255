"""Routing against the loops of `reference`, eager and into static buffers."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batches import DEVICE, hard_cases, random_case
from lorakit import NO_ADAPTER, StaticLoRABatchInfo, reference, slots_to_device
from lorakit.routing import route_by_adapter, route_by_request

MAX_TOKENS, MAX_LORAS = 32, 8
POISON = -77


def eager_matches(case) -> None:
    info = route_by_adapter(*case.tensors())
    expected = reference.route_by_adapter(case.slots, len(case.ranks))
    assert {name: getattr(info, name).tolist() for name in expected} == expected
    assert info.weight_indices.tolist() == list(range(len(case.ranks)))
    assert (info.bs, info.num_segments, info.max_len) == (len(case.ranks),) * 2 + (len(case.slots),)
    assert all(getattr(info, name).dtype == torch.int32 for name in expected)


@pytest.mark.parametrize("name", hard_cases(MAX_TOKENS, MAX_LORAS))
def test_hard_case(name):
    eager_matches(hard_cases(MAX_TOKENS, MAX_LORAS)[name])


@given(st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_random_batch(rng):
    eager_matches(random_case(rng, 300, 40))


@given(st.lists(st.integers(-3, 12) | st.sampled_from([-2**31 + 8, 2**31 - 1]), min_size=1,
                max_size=40))
@settings(max_examples=60, deadline=None)
def test_a_value_that_is_no_slot_counts_as_no_adapter(slots):
    ones = torch.ones(8, device=DEVICE)
    info = route_by_adapter(torch.tensor(slots, dtype=torch.int32, device=DEVICE), ones.int(), ones)
    expected = reference.route_by_adapter(slots, 8)
    assert info.seg_indptr.tolist() == expected["seg_indptr"]
    routed = expected["seg_indptr"][-1]
    assert info.permutation.tolist()[:routed] == expected["permutation"][:routed]


@pytest.mark.parametrize("name", ["seg_lens", "seg_indptr", "permutation", "weight_indices",
                                  "lora_ranks", "scalings", "token_weight_indices"])
def test_static_buffers_that_do_not_fit_each_other_are_refused(name):
    """A kernel writes into them without looking."""
    fields = vars(StaticLoRABatchInfo.empty(6, 4, DEVICE))
    with pytest.raises(ValueError, match=f"^{name} must have shape"):
        StaticLoRABatchInfo(**{**fields, name: fields[name][:-1]})
    with pytest.raises(TypeError, match=f"^{name} must be"):
        StaticLoRABatchInfo(**{**fields, name: fields[name].double()})


def test_static_buffers_hold_what_eager_computes_after_any_history():
    """One set of buffers through shrinking and growing batches, poisoned before each."""
    rng = random.Random(0)
    static = StaticLoRABatchInfo.empty(MAX_TOKENS, MAX_LORAS, DEVICE)
    cases = [random_case(rng, MAX_TOKENS, MAX_LORAS) for _ in range(50)]
    for case in cases + list(hard_cases(MAX_TOKENS, MAX_LORAS).values()):
        poison(static)
        wi, ranks, scalings = case.tensors()
        addresses = {name: t.data_ptr() for name, t in tensors_of(static).items()}
        route_by_adapter(wi, ranks, scalings, out=static)
        eager = route_by_adapter(wi, ranks, scalings)
        loras = len(case.ranks)
        assert torch.equal(static.permutation[:len(case.slots)], eager.permutation)
        assert torch.equal(static.seg_lens[:loras], eager.seg_lens)
        assert torch.equal(static.seg_indptr[:loras + 1], eager.seg_indptr)
        assert torch.equal(static.weight_indices[:loras], eager.weight_indices)
        assert torch.equal(static.lora_ranks[:loras], ranks)
        assert torch.equal(static.scalings[:loras], scalings)
        assert (static.seg_indptr[loras:] == static.seg_indptr[loras]).all(), "stale segments"
        assert {name: t.data_ptr() for name, t in tensors_of(static).items()} == addresses


def test_copy_from_neutralises_the_tail():
    static = StaticLoRABatchInfo.empty(6, 4, DEVICE)
    poison(static)
    ints = torch.tensor([2, 0], dtype=torch.int32, device=DEVICE)
    static.copy_from(ints, ints, ints.float())
    assert static.token_weight_indices.tolist() == [2, 0] + [NO_ADAPTER] * 4
    assert static.lora_ranks.tolist() == [2, 0, 0, 0]
    assert static.scalings.tolist() == [2.0, 0.0, 0.0, 0.0]


def test_one_segment_a_request():
    ints = lambda *v: torch.tensor(v, dtype=torch.int32, device=DEVICE)  # noqa: E731
    info = route_by_request(ints(1, -1, 0), ints(3, 0, 2), 3, ints(8, 16), ints(1, 2).float())
    assert info.seg_indptr.tolist() == [0, 3, 3, 5]
    assert (info.bs, info.num_segments, info.max_len, info.permutation) == (3, 3, 3, None)


def test_slots_to_device_checks_the_values():
    assert slots_to_device([0, -1, 3], 4, DEVICE).tolist() == [0, -1, 3]
    for bad in (4, -2):
        with pytest.raises(ValueError, match=rf"slots\[1\] is {bad}"):
            slots_to_device([0, bad], 4, DEVICE)
    for bad in (1.7, True, None, [1]):
        with pytest.raises(TypeError, match=r"slots\[1\] must be an int"):
            slots_to_device([0, bad], 4, DEVICE)


@pytest.mark.parametrize("error, sizes", [
    (ValueError, (0, 4)), (ValueError, (4, -1)), (TypeError, (4.5, 4)), (TypeError, (4, "4"))])
def test_static_buffers_need_sizes(error, sizes):
    with pytest.raises(error, match="max_tokens" if sizes[0] != 4 else "max_loras"):
        StaticLoRABatchInfo.empty(*sizes, DEVICE)


def test_out_must_be_static_buffers():
    ones = torch.ones(4, device=DEVICE)
    eager = route_by_adapter(ones.int(), ones.int(), ones)
    for out in (eager, {}):
        with pytest.raises(TypeError, match="out must be a StaticLoRABatchInfo"):
            route_by_adapter(ones.int(), ones.int(), ones, out=out)


@pytest.mark.parametrize("error, max_len", [(ValueError, -1), (TypeError, 1.5), (TypeError, True)])
def test_max_len_must_be_a_size(error, max_len):
    ones = torch.ones(4, device=DEVICE)
    with pytest.raises(error, match="max_len"):
        route_by_request(ones.int(), ones.int(), max_len, ones.int(), ones)


def bad_inputs():
    wi, ranks, sc = (torch.zeros(n, dtype=d, device=DEVICE)
                     for n, d in ((5, torch.int32), (4, torch.int32), (4, torch.float32)))
    every_other = torch.zeros(10, dtype=torch.int32, device=DEVICE)[::2]
    return [
        ("weight_indices", TypeError, (wi.long(), ranks, sc)),
        ("weight_indices", TypeError, ([0, 1], ranks, sc)),
        ("weight_indices", ValueError, (wi[None], ranks, sc)),
        ("weight_indices", ValueError, (every_other, ranks, sc)),
        ("weight_indices", ValueError, (wi.to("meta"), ranks, sc)),
        ("weight_indices", ValueError, (wi.repeat(9), ranks, sc)),  # above the capacity of out
        ("lora_ranks", TypeError, (wi, ranks.float(), sc)),
        ("lora_ranks", TypeError, (wi, None, sc)),
        ("lora_ranks", ValueError, (wi, ranks[:0], sc[:0])),
        ("lora_ranks", ValueError, (wi, ranks.repeat(9), sc.repeat(9))),
        ("scalings", TypeError, (wi, ranks, sc.double())),
        ("scalings", ValueError, (wi, ranks, sc[:3])),
    ]


@pytest.mark.parametrize("number", range(len(bad_inputs())))
@pytest.mark.parametrize("call", ["route", "copy_from"])
def test_bad_input_is_named_and_changes_nothing(number, call):
    name, error, args = bad_inputs()[number]
    static = StaticLoRABatchInfo.empty(MAX_TOKENS, MAX_LORAS, DEVICE)
    poison(static)
    if call == "copy_from" and name == "lora_ranks" and isinstance(args[1], torch.Tensor) \
            and args[1].numel() == 0:
        return  # no adapter at all is a batch that copy_from may write
    with pytest.raises(error, match=name):
        if call == "route":
            route_by_adapter(*args, out=static)
        else:
            static.copy_from(*args)
    assert all((t == POISON).all() for t in tensors_of(static).values())


def tensors_of(info) -> dict[str, torch.Tensor]:
    return {name: t for name, t in vars(info).items() if isinstance(t, torch.Tensor)}


def poison(info) -> None:
    for tensor in tensors_of(info).values():
        tensor.fill_(POISON)
