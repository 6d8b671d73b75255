"""The checkers of *Right until the next prompt* pass what is right and refuse the wrong answers that readers give.

Without a GPU pinned memory is a toy, with size classes as PyTorch has them, and a graph is a function
that reads a block of it.
"""

import gc
import weakref
from collections import defaultdict

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from book import detective, exercises
from chapter_functions import functions_of
from lorakit import runtime, timing

PAGE, LORAS = "307_right_until_the_next_prompt", 16
aten = torch.ops.aten


class Arena:
    """Blocks of a power of two of bytes; a dropped one goes to the next buffer of its class."""

    def __init__(self):
        self.free, self.blocks = defaultdict(list), {}

    def pin(self, tensor):
        size = 1 << (tensor.nbytes - 1).bit_length()
        block = self.free[size].pop() if self.free[size] else torch.zeros(size, dtype=torch.uint8)
        pinned = block[:tensor.nbytes].numpy()  # an owner of its own, so that its end can be seen
        storage = torch.frombuffer(pinned, dtype=tensor.dtype)
        pinned = storage.view(tensor.shape)
        pinned.copy_(tensor)
        self.blocks[pinned.data_ptr()] = block
        weakref.finalize(pinned, self.free[size].append, block)
        return pinned


class Toy:
    """A server whose graph reads a block of the host's again in each replay."""

    def __init__(self):
        self.read_by_graph = type(self).arena.blocks[self.build().data_ptr()]

    def build(self):
        return torch.ones(LORAS).pin_memory()

    def decode(self, slots):
        scalings = self.read_by_graph[:4 * LORAS].view(torch.float32)
        values = [10 * (slot + 1) * scalings[slot].item() for slot in slots]
        return torch.tensor(values)[:, None].expand(-1, 4)


class Kept(Toy):
    def build(self):
        self.table = torch.ones(LORAS).pin_memory()
        return self.table


class KeptUntilTheFirstReplay(Kept):
    def decode(self, slots):
        out = super().decode(slots)
        self.table = None
        return out


class Copied(Toy):
    def build(self):
        table = torch.ones(LORAS).pin_memory()
        self.kept = table.clone()
        return table


class Padded(Toy):  # right after every short prompt
    def build(self):
        return torch.ones(1024).pin_memory()


class Doubled(Kept):
    def decode(self, slots):
        return 2 * super().decode(slots)


@pytest.fixture
def toy_memory(monkeypatch):
    arena = Toy.arena = Arena()
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: arena.pin(self))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *args: None)
    monkeypatch.setattr(timing, "host_ms", lambda fn, queued_ms=10.0, repeats=5: (fn(), 0.1)[1])
    return arena


def test_the_toy_hands_a_dropped_block_to_the_same_class(toy_memory):
    table = torch.ones(16).pin_memory()
    address = table.data_ptr()
    del table
    gc.collect()
    assert torch.zeros(17).pin_memory().data_ptr() != address
    assert torch.zeros(9).pin_memory().data_ptr() == address


def test_a_kept_table_passes(toy_memory, capsys):
    exercises.check_recycled(Kept)
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.parametrize("answer, message", [
    (Toy, r"after buffers of 64 bytes were pinned, slots .*: got \[70, 140"),
    (KeptUntilTheFirstReplay, "after buffers of 64 bytes"),
    (Copied, "after buffers of 64 bytes"),
    (Padded, "after buffers of 4096 bytes"),
    (Doubled, "after the start"),
])
def test_wrong_servers_are_refused(answer, message, toy_memory, capsys):
    with pytest.raises(AssertionError, match=message):
        exercises.check_recycled(answer)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("answer", [Toy, Copied, Padded])
def test_decode_steps_alone_are_right(answer, toy_memory):
    server = answer()
    for _ in range(5):
        assert detective.read(server.decode([0, 1, 15])) == [10, 20, 160]


def test_a_server_that_waits_is_refused(toy_memory, monkeypatch):
    monkeypatch.setattr(timing, "host_ms", lambda fn, queued_ms=10.0, repeats=5: queued_ms + 0.2)
    with pytest.raises(AssertionError, match="decode holds the host for 20.2 ms"):
        exercises.check_recycled(Kept)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["Fixed", "Inside"])
def test_the_pages_right_forms_pass(name, capsys):
    exercises.check_recycled(functions_of(PAGE)[name])
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.gpu
@pytest.mark.parametrize("name, size", [("Broken", 64), ("Copied", 64), ("Padded", 4096)])
def test_the_pages_wrong_forms_are_refused(name, size):
    page = functions_of(PAGE)
    with pytest.raises(AssertionError, match=f"after buffers of {size} bytes"):
        exercises.check_recycled(page[name])
    with pytest.raises(AssertionError, match=f"^{size} bytes were pinned"):
        page["regression_test"](page[name])


@pytest.mark.gpu
def test_the_naive_test_is_green_for_the_fault():
    page = functions_of(PAGE)
    page["naive_test"](page["Broken"])


@pytest.mark.gpu
def test_the_mode_repairs_the_fault():
    page = functions_of(PAGE)
    page["regression_test"](page["kept_broken"])


# -- a mode that keeps ----------------------------------------------------------------------------------

class Mode(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.kept = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.look(func, args, result)
        return result

    def look(self, func, args, result):
        """Keeps nothing."""


class KeepsAnyInput(Mode):
    """Another right one: whatever is on the host and goes into a result that is not."""

    def look(self, func, args, result):
        if isinstance(result, torch.Tensor) and result.device.type != "cpu":
            self.kept += [arg for arg in args if isinstance(arg, torch.Tensor) and arg.device.type == "cpu"]


class KeepsEverything(Mode):
    def look(self, func, args, result):
        self.kept += [arg for arg in args if isinstance(arg, torch.Tensor)]


class KeepsTheHostsEverything(Mode):  # right, and the memory fills up
    def look(self, func, args, result):
        self.kept += [arg for arg in args if isinstance(arg, torch.Tensor) and arg.device.type == "cpu"]


class KeepsTheTarget(Mode):
    def look(self, func, args, result):
        if func is aten.copy_.default:
            self.kept.append(args[0])


class MissesTo(Mode):
    def look(self, func, args, result):
        if func is aten.copy_.default and args[1].device.type == "cpu" and args[0].device.type != "cpu":
            self.kept.append(args[1])


class KeepsAClone(KeepsAnyInput):  # the trap of the first exercise
    def look(self, func, args, result):
        before = len(self.kept)
        super().look(func, args, result)
        self.kept[before:] = [tensor.clone() for tensor in self.kept[before:]]


class LosesTheResult(KeepsAnyInput):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        super().__torch_dispatch__(func, types, args, kwargs)


@pytest.mark.kernels
def test_the_pages_mode_passes(capsys):
    exercises.check_keep(functions_of(PAGE)["Keep"])
    assert capsys.readouterr().out == "passed\n"


def test_another_right_mode_passes(capsys):
    exercises.check_keep(KeepsAnyInput)
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.parametrize("answer, message", [
    (Mode, "a copy: the tensor that was copied is not kept"),
    (KeepsEverything, "a copy: a tensor of the device is kept"),
    (KeepsTheHostsEverything, "tensors are kept that were not copied to the device"),
    (KeepsTheTarget, "a copy: a tensor of the device is kept"),
    (MissesTo, "a to: the tensor that was copied is not kept"),
    (KeepsAClone, "a copy: the tensor that was copied is not kept"),
])
def test_wrong_modes_are_refused(answer, message, capsys):
    with pytest.raises(AssertionError, match=message):
        exercises.check_keep(answer)
    assert capsys.readouterr().out == ""


def test_a_mode_that_loses_results_is_refused():
    with pytest.raises((AssertionError, AttributeError, TypeError)):
        exercises.check_keep(LosesTheResult)


@pytest.mark.skipif(runtime.HAS_GPU, reason="says what a machine without a GPU is told")
@pytest.mark.kernels
def test_the_case_can_be_linted_without_a_gpu():
    from book import cases
    page = functions_of(PAGE)
    case = cases.Case("recycled", "S7", "", page["step"], page["step"], page["make_inputs"])
    assert cases.run(case) == cases.run(case, fixed=True) == {"lint": cases.SILENT}
