"""attempt and probe: what they say of calls whose fate on a GPU is known, and that they do no harm."""

import collections
import contextlib
import sys
import threading

import pytest
import torch

from batches import DEVICE
from lorakit import capture
from lorakit.capture import attempt, probe
from lorakit.capture.driver import Node
from lorakit.capture.frozen import frozen
from lorakit.capture.lines import Line, is_library, last_place
from lorakit.capture.rules import rule_of, rule_of_operation
from lorakit.capture.trees import copied, leaves, mapped


def assign(x):
    y = x + 1
    x[0] = 0  # this one
    return y


def branch(x):
    if x.sum() > 0:
        x.add_(1)
    return x.sum().item()


REFUSED = {  # name -> (function of one tensor, rule, text in the line that is refused)
    "scalar assignment": (assign, "L3", "x[0] = 0"),
    "branch on a tensor": (branch, "L2", "if x.sum() > 0"),
    "boolean index": (lambda x: x[x > 1], "L2", "boolean index"),
    "pinned copy that blocks": (lambda x: x.copy_(torch.zeros(8).pin_memory()), "L3", "pinned"),
    "synchronize": (lambda x: torch.cuda.synchronize(), "L1", "synchronize"),
    "solver that reads its status": (lambda x: torch.linalg.inv(torch.eye(4, device=x.device)), "L2", "inv"),
}
TAKEN = {  # name -> (function, nodes)
    "arithmetic": (lambda x: x * 2 + 1, {"kernel": 2}),
    "slice assignment": (lambda x: x[0:1].zero_(), {"kernel": 1}),
    "copy on the device": (lambda x: x[:4].copy_(x[4:]), {"memcpy": 1}),
    "random numbers": (lambda x: torch.rand_like(x), {"kernel": 1}),
}


@pytest.fixture
def x():
    return torch.arange(8.0, device=DEVICE)


@pytest.fixture(autouse=True)
def the_process_stays_well():
    yield
    if torch.cuda.is_available():
        assert not torch.cuda.is_current_stream_capturing()
        assert torch.rand(2, device=DEVICE).shape == (2,)
        assert attempt(lambda: torch.zeros(2, device=DEVICE)).error is None
        assert torch.cuda.current_stream() == torch.cuda.default_stream()


@pytest.mark.gpu
@pytest.mark.parametrize("name", REFUSED)
def test_a_call_that_waits_is_found_with_its_line_and_its_rule(name, x):
    fn, rule, source = REFUSED[name]
    report = probe(fn, x)
    assert report.blocks_host and report.host_ms > report.queued_ms / 2
    assert not report.capturable and report.nodes == {}
    assert (report.rule, source in report.line.source) == (rule, True)
    assert any(source in line.source for line in report.blocking)
    assert rule in str(report) and report.line.source in str(report)


@pytest.mark.gpu
@pytest.mark.parametrize("name", TAKEN)
def test_a_call_that_does_not_wait_is_taken(name, x):
    fn, nodes = TAKEN[name]
    report = probe(fn, x)
    assert not report.blocks_host and report.host_ms < 5.0 and report.blocking == ()
    assert report.capturable and (report.error, report.rule, report.line) == (None, None, None)
    assert report.nodes == nodes
    assert "can be captured" in str(report)


@pytest.mark.gpu
def test_every_line_that_waits_is_found_not_only_the_first(x):
    report = probe(branch, x)
    assert [line.source for line in report.blocking] == ["if x.sum() > 0:", "return x.sum().item()"]


@pytest.mark.gpu
def test_a_wait_and_a_refusal_are_told_apart(x):
    """A pageable copy that does not block is refused; a slow host is no wait."""
    host = torch.zeros(8)
    report = probe(lambda: x.copy_(host, non_blocking=True))
    assert not report.blocks_host and report.rule == "L3"
    report = probe(lambda: [x.add_(1) for _ in range(3000)])  # more launches than a queue holds
    assert not report.blocks_host and report.nodes == {"kernel": 3000}


@pytest.mark.gpu
def test_an_attempt_runs_nothing_and_its_graph_replays(x):
    tried = attempt(lambda: x.add_(1))
    assert x[1].item() == 1.0
    tried.graph.replay()
    assert x[1].item() == 2.0
    (node,) = tried.nodes
    assert node.kind == "kernel" and node.grid[:3] == (1, 1, 1) and node.arguments


@pytest.mark.gpu
def test_an_attempt_goes_on_beside_other_threads(x):
    def allocate():
        with contextlib.suppress(RuntimeError):  # in global mode it is refused here too
            torch.empty(2**26, device=DEVICE).sum().item()

    def other_thread():
        thread = threading.Thread(target=allocate)
        thread.start()
        thread.join()
        x.add_(1)

    assert attempt(other_thread).error is None
    assert attempt(other_thread, error_mode="global").rule == "L11 or L15"


@pytest.mark.gpu
def test_refused_attempts_leave_no_memory_behind(x):
    def refused():
        torch.zeros(2**22, device=DEVICE)
        x.sum().item()

    attempt(refused)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    for _ in range(5):
        assert attempt(refused).rule == "L2"
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() == before


@pytest.mark.gpu
def test_random_numbers_go_on_as_if_nothing_had_been_probed(x):
    torch.cuda.manual_seed(5)
    expected = torch.rand(3, device=DEVICE).tolist()
    torch.cuda.manual_seed(5)
    probe(lambda: torch.rand_like(x))
    assert torch.rand(3, device=DEVICE).tolist() == expected


@pytest.mark.gpu
def test_an_error_of_the_functions_own_is_not_a_rule(x):
    tried = attempt(lambda: x.view(3))
    assert tried.rule is None and tried.error.startswith("RuntimeError: shape")
    with pytest.raises(RuntimeError, match="shape"):
        probe(lambda: x.view(3))


@pytest.mark.gpu
def test_an_error_that_was_swallowed_still_names_its_rule(x):
    def swallows():
        with contextlib.suppress(RuntimeError):
            x.sum().item()
        return x * 2
    assert attempt(swallows).rule == "L2"


@pytest.mark.gpu
def test_a_capture_inside_of_a_capture_is_refused_before_it_does_harm(x):
    for tool in (attempt, probe):
        said = attempt(lambda: (x.add_(1), tool(lambda: None)))
        assert "is capturing already" in said.error


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("use", [
    lambda: attempt(lambda: None), lambda: probe(lambda: None),
    lambda: capture.assert_graph_safe(lambda x: x, lambda i: i)])
def test_without_a_gpu_the_tools_say_so(use):
    with pytest.raises(RuntimeError, match="this machine has none"):
        use()


@pytest.mark.parametrize("tool", [attempt, probe])
def test_what_cannot_be_called_is_refused(tool):
    with pytest.raises(TypeError, match="fn must be callable"):
        tool(3)


@pytest.mark.parametrize("text, rule", [
    ("Cannot copy between CPU and CUDA tensors during CUDA graph capture unless", "L3"),
    ("CUDA error: capturing stream has unjoined work", "L6"),
    ("CUDA error: operation failed due to a previous error during capture", "L11 or L15"),
    ("CUDA error: operation not permitted on an event last recorded in a capturing stream", "L8"),
    ("CUDA error: operation not permitted when stream is capturing", "L1, L2 or L3"),
    ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", "L16"),
    ("Triton Error [CUDA]: operation not permitted when stream is capturing", "L13"),
    ("shape '[3]' is invalid for input of size 8", None),
])
def test_an_errors_text_names_its_rule(text, rule):
    assert rule_of(RuntimeError(text)) == rule


@pytest.mark.parametrize("operation, rule", [
    (None, "L1"), ("copy_.default", "L3"), ("_to_copy.default", "L3"), ("nonzero.default", "L2"),
    ("_local_scalar_dense.default", "L2")])
def test_an_operation_names_the_rule_where_cuda_does_not(operation, rule):
    assert rule_of_operation(operation) == rule


def test_the_line_of_an_error_is_the_callers_not_the_librarys():
    try:
        torch.nn.functional.softmax(torch.zeros(2), dim=7)
    except IndexError as error:
        line = Line.at(*last_place(error.__traceback__))
    assert line.source.startswith("torch.nn.functional.softmax")
    assert is_library(torch.__file__) and not is_library(__file__)
    assert not is_library(sys.modules["lorakit"].__file__)


def node(name="add", grid=(1, 1, 1, 128, 1, 1), variant=7, words=(5, 6)):
    return Node("kernel", name, grid, variant, b"".join(w.to_bytes(8, "little") for w in words))


@pytest.mark.parametrize("now, rule", [
    ([node(), node()], "S4"),
    ([node(name="mul")], "S4"),
    ([node(grid=(2, 1, 1, 128, 1, 1))], "S3"),
    ([node(variant=8)], "S15"),
    ([node(words=(5, 9))], "S2"),
    ([node(grid=(2, 1, 1, 128, 1, 1), words=(5, 9))], "S3"),
])
def test_the_difference_between_two_graphs_names_the_rule(now, rule, monkeypatch):
    monkeypatch.setattr("lorakit.capture.frozen.outside_of_graphs", lambda address: False)
    assert frozen([node()], [node()], now)[0] == rule


def test_an_address_is_told_from_a_scalar_and_noise_from_both(monkeypatch):
    monkeypatch.setattr("lorakit.capture.frozen.outside_of_graphs", lambda address: address > 100)
    assert frozen([node(words=(5, 200))], [node(words=(5, 201))], [node(words=(5, 202))])[0] == "S1"
    noise = frozen([node(words=(5, 6))], [node(words=(5, 7))], [node(words=(5, 8))])
    assert noise[0] == "S1 to S5"


def test_trees_keep_their_shape():
    tree = {"a": [torch.zeros(2), 3], "b": (torch.ones(1), None)}
    assert [name for name, _ in leaves((tree, 1), "input")] == [
        "input 0['a'][0]", "input 0['a'][1]", "input 0['b'][0]", "input 0['b'][1]", "input 1"]
    twin = copied(tree)
    assert twin["a"][1] == 3 and twin["b"][1] is None and isinstance(twin["b"], tuple)
    assert twin["a"][0] is not tree["a"][0] and torch.equal(twin["a"][0], tree["a"][0])
    pair = collections.namedtuple("Pair", "x y")(torch.ones(2), 5)
    assert copied(pair).y == 5 and type(copied(pair)) is type(pair)
    assert mapped(lambda left, right: (left, right), (1, [2]), (3, [4])) == ((1, 3), [(2, 4)])
