"""The broken servers of *Garbled, cause unknown*: right without a graph, and each with its signature."""

import inspect

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from book import detective, lineup, suspects
from book.lineup import EXPERIMENTS, RIGHT, SIGNATURES, SYMPTOM, Server, bits, measured, seen, tried
from lorakit import runtime

ALL = [Server, *suspects.SUSPECTS]
ON_GPU = runtime.device().type == "cuda"


def batches():
    """Every call of every experiment, once."""
    calls = []
    for _, sent in EXPERIMENTS.values():
        calls += [call for call in sent if call not in calls]
    return calls


def name_of(case):
    return getattr(case, "__name__", None)


@pytest.mark.kernels
@pytest.mark.parametrize("server", ALL, ids=name_of)
@pytest.mark.skipif(ON_GPU, reason="on a GPU three of them are wrong without a graph too")
def test_without_a_graph_and_without_a_gpu_all_are_right(server):
    started = server(graph=False)
    for call in batches():
        assert started.serve(*call) == [detective.expected(slots) for slots in call]


class Tape(TorchDispatchMode):
    """A graph in small, on the CPU: a call's operations and kernels, to run again. Unlike a capture it
    runs the call, and it gives no memory away."""

    running = None

    def __init__(self, step, pool=None):
        super().__init__()
        self.calls, self.graph, Tape.running = [], self, self
        try:
            with self:
                self.result = step()
        finally:
            Tape.running = None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self):
        for func, args, kwargs, old in self.calls:
            new = func(*args, **kwargs)
            if isinstance(new, torch.Tensor) and new.data_ptr() != old.data_ptr():
                old.copy_(new)


class Taped:
    """A kernel whose launches go onto the tape."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        def launch(*args, **kwargs):
            if Tape.running:
                Tape.running.calls.append((self.kernel[grid], args, kwargs, None))
            with _disable_current_modes():
                self.kernel[grid](*args, **kwargs)
        return launch


@pytest.fixture
def taped(monkeypatch):
    from lorakit.kernels import expand, shrink, tokens
    for module, name in ((shrink, "shrink_kernel"), (expand, "expand_kernel"),
                         (tokens, "shrink_kernel"), (tokens, "expand_kernel")):
        monkeypatch.setattr(module, name, Taped(getattr(module, name)))
    monkeypatch.setattr(lineup, "captured", Tape)
    monkeypatch.setattr(suspects, "captured", Tape)


@pytest.mark.kernels
@pytest.mark.skipif(ON_GPU, reason="there it is measured with graphs")
@pytest.mark.parametrize("name", ["Server", "Grid", "Group", "Branch", "Rank", "Tail"])
def test_signature_of_what_freezes_a_value(name, taped):
    server = getattr(suspects, name)
    for experiment in EXPERIMENTS:
        expected = SIGNATURES.get(name, {}).get(experiment, RIGHT)
        assert measured(server, experiment) == expected, experiment


@pytest.mark.gpu
@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("server", ALL, ids=name_of)
def test_signature(server, experiment):
    assert tried(server, experiment) == SIGNATURES.get(server.__name__, {}).get(experiment, RIGHT)


@pytest.mark.gpu
@pytest.mark.parametrize("server", suspects.SUSPECTS, ids=name_of)
def test_a_fault_is_certain(server):
    for _ in range(5):
        assert tried(server, SYMPTOM) == SIGNATURES[server.__name__][SYMPTOM]


def test_every_suspect_has_a_signature_of_its_own():
    assert list(SIGNATURES) == [server.__name__ for server in suspects.SUSPECTS]
    told = [tuple(row.values()) for row in SIGNATURES.values()]
    assert len(set(told)) == len(told)
    assert all(row[SYMPTOM] != RIGHT for row in SIGNATURES.values())


def test_a_signature_knows_one_symptom():
    for row in SIGNATURES.values():
        assert set(row.values()) <= {RIGHT, row[SYMPTOM]}


@pytest.mark.parametrize("server", suspects.SUSPECTS, ids=name_of)
def test_a_suspect_is_short_and_names_its_rule(server):
    lines = inspect.getsource(server).splitlines()
    assert len([line for line in lines if line.strip()]) <= 20
    assert server.__doc__ and server.rule


def test_batches_fit_the_server():
    for call in batches():
        for slots in call:
            assert 1 <= len(slots) <= lineup.MAX_TOKENS
            assert all(-1 <= slot < lineup.MAX_LORAS for slot in slots)
    assert all(len(slots) == lineup.MAX_TOKENS for slots in lineup.FULL)
    assert all(-1 not in slots for slots in lineup.LORA_ONLY)


def test_seen_marks_nan():
    out = detective.nothing(3)
    out[0], out[1] = 20, float("nan")
    assert seen(out) == [20, "!", 0]


@pytest.mark.parametrize("outcomes, expected", [
    (["right"] * 4, 0.0), (["right", "base"] * 5, 1.0), (["a", "b", "c", "d"], 2.0)])
def test_bits(outcomes, expected):
    assert bits(outcomes) == pytest.approx(expected)


@pytest.mark.skipif(ON_GPU, reason="there it is measured")
def test_without_a_gpu_the_recorded_outcome_is_told():
    assert tried(suspects.Pool, "own pool") == RIGHT
    assert tried(suspects.Pool, SYMPTOM) == "other"
    assert tried(Server, SYMPTOM) == RIGHT
