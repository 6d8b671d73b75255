"""The recorder of *A CUDA graph in thirty lines of Python*: a replay does what the block did."""

import random

import pytest
import torch

from lorakit import StaticLoRABatchInfo, reference, slots_to_device
from lorakit.capture.recorder import Recorder
from lorakit.routing import route_by_adapter_torch


def record(block):
    graph = Recorder()
    with graph.capture():
        result = block()
    return graph, result


BLOCKS = {
    "functional": lambda x, out: x * 2 + x,
    "in place": lambda x, out: x.clone().add_(1).mul_(3),
    "out": lambda x, out: torch.cumsum(x, 0, out=out),
    "view": lambda x, out: x[1:3].reshape(2, 1),
    "view of a result": lambda x, out: (x + 1)[1:3].neg_(),
    "several results": lambda x, out: torch.sort(x, descending=True)[1],
    "lists": lambda x, out: torch.cat([x, out, x]),
    "write through a view": lambda x, out: out[1:3].copy_(x[:2]),
    "index": lambda x, out: x[torch.argsort(x)],
    "own buffer": lambda x, out: torch.zeros(4).add_(x),
    "layer": lambda x, out: torch.nn.functional.linear(x, torch.eye(4)),
    "known size": lambda x, out: x.repeat_interleave(torch.full((4,), 2), output_size=8),
}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_a_replay_on_new_values_is_the_block_on_new_values(block):
    x, out = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.zeros(4)
    graph, result = record(lambda: block(x, out))
    for values in ([4.0, 1.0, 3.0, 2.0], [7.0, 7.0, -1.0, 0.0]):
        x.copy_(torch.tensor(values))
        graph.replay()
        assert torch.equal(result, block(x.clone(), torch.zeros(4)))


def test_nothing_has_run_when_the_block_ends():
    counter, made = torch.zeros(2, dtype=torch.int32), []

    def block():
        made.append(counter[1:2].add_(5) * 2)
        made.append(made[0] / 2)

    graph, _ = record(block)
    assert counter.tolist() == [0, 0] and made[0].tolist() == [-1] and made[1].isnan().all()
    graph.replay()
    graph.replay()
    assert counter.tolist() == [0, 10] and made[0].tolist() == [20]


def test_addresses_stay_when_names_and_data_move():
    x = torch.ones(2)
    graph, y = record(lambda: x * 2)
    x.data = torch.full((2,), 50.0)
    graph.replay()
    assert y.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("ask", [
    lambda x: x.sum().item(), lambda x: bool(x.any()), lambda x: x[x > 0], lambda x: x.nonzero(),
    lambda x: x.masked_select(x > 0), lambda x: torch.equal(x, x), lambda x: x.unique(),
    lambda x: torch.bincount(x), lambda x: torch.repeat_interleave(x)])
def test_a_question_to_the_device_is_refused_and_leaves_nothing(ask):
    x, counter, graph = torch.tensor([1, 0, 2]), torch.zeros(1), Recorder()
    with pytest.raises(RuntimeError, match="rule L2"), graph.capture():
        counter.add_(1)
        ask(x)
    assert graph.calls == [] and counter.item() == 0
    with pytest.raises(RuntimeError, match="nothing to replay"):
        graph.replay()


def test_there_is_nothing_to_replay_before_a_capture():
    with pytest.raises(RuntimeError, match="nothing to replay"):
        Recorder().replay()


def test_equal_blocks_give_equal_calls_and_each_frozen_thing_a_difference():
    x, z = torch.ones(4), torch.ones(4)

    def calls(factor=2, rows=4, source=x, branch=False):
        def block():
            y = source[:rows] * factor
            return y.neg() if branch else y
        return record(block)[0].calls

    assert calls() == calls()
    for other in ({"factor": 3}, {"rows": 3}, {"source": z}, {"branch": True}):
        assert calls() != calls(**other), other


def test_a_call_says_what_it_holds():
    x, out = torch.ones(3), torch.zeros(4)
    graph, y = record(lambda: out[1:].copy_(x * 2))
    view, mul, copy = graph.calls
    assert [call.op for call in graph.calls] == ["aten.slice.Tensor", "aten.mul.Tensor",
                                                 "aten.copy_.default"]
    assert mul.scalars == {"other": 2} and mul.given[0].address == x.data_ptr()
    assert mul.results[0].address == 0 and mul.results[0].written
    assert not any(m.written for m in view.given + view.results)
    assert copy.given[0].written and copy.given[0].layout == (torch.float32, (3,), (1,), 1)
    assert copy.given[0].place == graph.places[out.data_ptr()]
    add, = record(lambda: x.add_(x))[0].calls
    assert [m.written for m in add.given] == [True, False], "the same memory, written and read"


def test_the_routing_replays_for_batches_that_the_capture_never_saw():
    static, rng = StaticLoRABatchInfo.empty(12, 4, "cpu"), random.Random(0)
    ranks, scalings = torch.full((4,), 8, dtype=torch.int32), torch.ones(4)
    route = lambda: route_by_adapter_torch(
        static.token_weight_indices, static.lora_ranks, static.scalings, static)
    graph, _ = record(route)
    for _ in range(50):
        slots = rng.choices(range(-1, 4), k=rng.randint(1, 12))
        for name in ("seg_lens", "seg_indptr", "permutation", "weight_indices"):
            getattr(static, name).fill_(-77)
        static.copy_from(slots_to_device(slots, 4, "cpu"), ranks, scalings)
        graph.replay()
        for name, wanted in reference.route_by_adapter(slots, 4).items():
            assert getattr(static, name).tolist()[:len(wanted)] == wanted, (slots, name)
    assert record(route)[0].calls == graph.calls, "the recording depends on the batch"
