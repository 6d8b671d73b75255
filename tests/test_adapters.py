"""Slots: what a load writes, what it leaves, what it refuses."""

import pytest
import torch

from lorakit.adapters import LoRAWeights


def slots() -> LoRAWeights:
    return LoRAWeights.zeros(3, 4, 5, (6, 2), torch.float32, "cpu")


def adapter(rank: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    return ([torch.full((rank, 5), s + 1.0) for s in range(2)],
            [torch.full((size, rank), s + 1.0) for s, size in enumerate((6, 2))])


def test_load_writes_one_slot_in_place():
    weights = slots()
    addresses = weights.lora_a.data_ptr(), weights.lora_b.data_ptr()
    weights.lora_a.fill_(9), weights.lora_b.fill_(9)  # what a slot held before
    assert weights.load(1, *adapter(3)) == 3
    assert weights.lora_a[1, :, :3].sum() == 3 * 5 * (1 + 2)
    assert weights.lora_b[1, :, :3].sum() == 3 * (6 * 1 + 2 * 2)
    assert weights.lora_a[1, :, 3:].sum() == weights.lora_b[1, :, 3:].sum() == 0
    assert (weights.lora_a[[0, 2]] == 9).all() and (weights.lora_b[[0, 2]] == 9).all()
    assert addresses == (weights.lora_a.data_ptr(), weights.lora_b.data_ptr())


@pytest.mark.parametrize("name, slot, a, b", [
    ("slot", 3, *adapter(2)),
    ("slot", -1, *adapter(2)),
    ("lora_a and lora_b", 0, adapter(2)[0][:1], adapter(2)[1]),
    ("lora_a has rank 5, above the slot's width 4", 0, *adapter(5)),
    (r"lora_a\[1\]", 0, [torch.ones(2, 5), torch.ones(3, 5)], adapter(2)[1]),
    (r"lora_b\[0\]", 0, adapter(2)[0], [torch.ones(2, 6), torch.ones(2, 2)]),
    ("slot", 1.5, *adapter(2)),
    ("slot", True, *adapter(2)),
    (r"lora_a\[1\]", 0, [torch.ones(2, 5), [1.0]], adapter(2)[1]),
    (r"lora_a\[0\]", 0, [torch.ones(2, 5).int(), torch.ones(2, 5)], adapter(2)[1]),
    (r"lora_a\[0\]", 0, [torch.tensor(1.0), torch.ones(2, 5)], adapter(2)[1]),
    (r"lora_b\[1\]", 0, adapter(2)[0], [torch.ones(6, 2), torch.ones(2, 2, device="meta")]),
])
def test_a_bad_load_is_named_and_changes_nothing(name, slot, a, b):
    weights = slots()
    with pytest.raises((TypeError, ValueError), match=name):
        weights.load(slot, a, b)
    assert weights.lora_a.abs().sum() == weights.lora_b.abs().sum() == 0


@pytest.mark.parametrize("name, a_shape, b_shape, sizes", [
    ("slice_sizes", (3, 2, 4, 5), (3, 8, 4), (8,)),
    ("slice_sizes", (3, 2, 4, 5), (3, 8, 4), (8, 0)),
    ("lora_b", (3, 2, 4, 5), (3, 8, 3), (6, 2)),
    ("lora_a", (3, 4, 5), (3, 8, 4), (6, 2)),
])
def test_tensors_that_do_not_fit_each_other_are_refused(name, a_shape, b_shape, sizes):
    with pytest.raises(ValueError, match=name):
        LoRAWeights(torch.zeros(a_shape), torch.zeros(b_shape), sizes)


@pytest.mark.parametrize("name, error, sizes", [
    ("max_loras", ValueError, (-1, 4, 5, (6,))),
    ("max_rank", ValueError, (3, 0, 5, (6,))),
    ("hidden", TypeError, (3, 4, 5.0, (6,))),
    ("slice_sizes", ValueError, (3, 4, 5, ())),
    ("slice_sizes", ValueError, (3, 4, 5, (-64, 32))),
    ("slice_sizes", TypeError, (3, 4, 5, (64.0, 32.0))),
    ("slice_sizes", TypeError, (3, 4, 5, None)),
])
def test_sizes_that_are_none_are_refused(name, error, sizes):
    with pytest.raises(error, match=name):
        LoRAWeights.zeros(*sizes, torch.float32, "cpu")


def test_weights_that_are_no_float_tensors_are_refused():
    b = torch.zeros(3, 6, 4)
    for a in ([1.0], torch.zeros(3, 1, 4, 5, dtype=torch.int32)):
        with pytest.raises(TypeError, match="lora_a"):
            LoRAWeights(a, b, (6,))


def test_a_hidden_size_of_zero_is_refused():
    with pytest.raises(ValueError, match="hidden size must be at least 1"):
        LoRAWeights(torch.zeros(3, 1, 4, 0), torch.ones(3, 5, 4), (5,))
