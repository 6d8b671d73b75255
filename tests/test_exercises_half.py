"""*Half an adapter*: its checkers, and its classes on two streams that a test drives.

Without a GPU there are no streams. `Gpu` stands in for them: each stream is a queue, and nothing in
it runs before somebody waits for it. That is the slowest GPU that keeps its word, so a missing order
shows for certain.
"""

import contextlib
import time
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from book import exercises
from book.exercises import half
from chapter_functions import functions_of
from lorakit import runtime

PAGE = "306_half_an_adapter"


# -- the bookkeeping ------------------------------------------------------------------------------------

def certain(program, first, second):
    done, host = {}, set()
    for who, verb, what in program:
        mine = host if who == "host" else done.setdefault(who, set())
        mine |= host
        if verb == "waits":
            mine |= done.get(what, set())
        elif what == second:
            return first in mine
        else:
            mine.add(what)


def any_wait(program, first, second):  # right for the page's own programs, but for one
    (writer, _, _), (reader, _, _) = ([entry for entry in program if entry[2] == work][0]
                                      for work in (first, second))
    return (reader, "waits", writer) in program


def as_called(program, first, second):  # the host's order
    works = [what for _, verb, what in program if verb == "runs"]
    return works.index(first) < works.index(second)


def direct(program, first, second):  # an order that passes on through a third stream is lost
    started, waited = False, False
    for who, verb, what in program:
        started |= what == first
        waited |= started and verb == "waits" and (who, what) in (("decode", "loader"), ("host", "loader"))
        if what == second:
            return waited and started


def without_host(program, first, second):
    return certain([entry for entry in program if entry[0] != "host"], first, second)


def now_and_later(program, first, second):  # as if a wait covered what comes after it too
    reached = {second}
    streams = {entry[0] for entry in program if entry[2] == second}
    for who, verb, what in reversed(program):
        if verb == "waits" and who in streams | {"host"}:
            streams.add(what)
    return any(who in streams and what == first for who, _, what in program) and first not in reached


def test_the_bookkeeping_passes(capsys):
    exercises.check_certain(certain)
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.parametrize("wrong", [any_wait, as_called, direct, without_host, now_and_later,
                                   lambda *_: True, lambda *_: False])
def test_wrong_bookkeeping_is_refused(wrong):
    with pytest.raises(AssertionError, match="certain to run before"):
        exercises.check_certain(wrong)


def test_orders_are_all_that_streams_allow():
    w, r = ("loader", "runs", "write"), ("decode", "runs", "read")
    assert half.orders([w, r]) == {("write", "read"), ("read", "write")}
    assert half.orders([w, ("decode", "waits", "loader"), r]) == {("write", "read")}
    assert half.orders([("decode", "waits", "loader"), w, r]) == {("write", "read"), ("read", "write")}
    assert half.orders([w, ("host", "waits", "loader"), r]) == {("write", "read")}
    three = [("loader", "runs", "1"), ("loader", "runs", "2"), ("decode", "runs", "3")]
    assert len(half.orders(three)) == 3


# -- the loader, on streams that a test drives ----------------------------------------------------------

class Gpu(TorchDispatchMode):
    """Streams as queues. Copies and clones wait in the current one; torch.cuda is patched to it."""

    def __init__(self, patch, *spaces):
        super().__init__()
        self.busy, self.streams, gpu = False, [], self

        class Stream:
            def __init__(self, *_, **__):
                self.queue, self.ran, self.held = [], 0, []
                gpu.streams.append(self)

            def run(self, end=None):
                while self.ran < (len(self.queue) if end is None else end):
                    work = self.queue[self.ran]
                    self.ran += 1
                    was, gpu.busy = gpu.busy, True
                    try:
                        work()
                    finally:
                        gpu.busy = was

            def record_event(self, event=None):
                event = event or Event()
                event.stream, event.end = self, len(self.queue)
                return event

            def wait_event(self, event):
                stream, end = event.stream, event.end
                self.queue.append(lambda: stream and stream.run(end))

            def wait_stream(self, other):
                self.wait_event(other.record_event())

            synchronize = run

        class Event:
            stream, end = None, 0

            def record(self, stream=None):
                (stream or gpu.current).record_event(self)

            def wait(self, stream=None):
                (stream or gpu.current).wait_event(self)

            def synchronize(self):
                self.stream and self.stream.run(self.end)

        self.current = Stream()
        for name, value in {"Stream": Stream, "Event": Event, "stream": self.on,
                            "current_stream": lambda: self.current,
                            "synchronize": self.synchronize}.items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
        for space in spaces:
            patch.setitem(space, "queue_work", self.hold)
            if "attempt" in space:
                patch.setitem(space, "attempt", self.attempt)

    @contextlib.contextmanager
    def on(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before

    def hold(self, ms):
        self.current.held.append(len(self.current.queue))
        self.current.queue.append(lambda: time.sleep(ms / 1e3))

    def synchronize(self):
        """Streams that are held come last."""
        for stream in sorted(self.streams, key=lambda s: any(place >= s.ran for place in s.held)):
            stream.run()

    def attempt(self, fn):
        replay = SimpleNamespace(replay=lambda: self.current.queue.append(fn))
        return SimpleNamespace(graph=replay, error=None)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func._schema.name, kwargs or {}
        if self.busy or name not in ("aten::copy_", "aten::clone"):
            if name == "aten::_to_copy" and not self.busy:
                self.current.run()  # the host reads
            return func(*args, **kwargs)
        if name == "aten::clone":
            out = torch.empty_like(args[0])
            self.current.queue.append(lambda: out.copy_(args[0]))
            return out
        self.current.queue.append(lambda: func(*args, **kwargs))
        return args[0]


needs_interpreter = pytest.mark.skipif(runtime.HAS_GPU, reason="the same tests run on the GPU itself")


@pytest.fixture
def page(monkeypatch):
    """The page's names: with two layers on a stand-in for the GPU, or as they are on a GPU."""
    names = functions_of(PAGE)
    if runtime.HAS_GPU:
        yield names
        return
    for name, value in {"LAYERS": 2, "WHOLE": [20] * 2}.items():
        monkeypatch.setitem(names, name, value)
    with Gpu(monkeypatch, names, vars(half)):
        yield names


def loaders(names):
    """Further loaders that readers write: name -> class."""
    Broken, cuda = names["Broken"], torch.cuda

    class Event(Broken):
        def load(self, version):
            super().load(version)
            done = cuda.Event()
            done.record(self.loader)
            cuda.current_stream().wait_event(done)

    class InDecode(Broken):
        def decode(self, graph=True):
            cuda.current_stream().wait_stream(self.loader)
            return super().decode(graph)

    class OneStream(Broken):  # the copies stand in the queue of the steps
        def load(self, version):
            slot = names["SLOT"]
            for layer in self.layers:
                for place, matrix in zip((layer.lora_a[slot, 0], layer.lora_b[slot]), version):
                    place.copy_(matrix.pin_memory(), non_blocking=True)

    class WrongWay(Broken):
        def load(self, version):
            super().load(version)
            self.loader.wait_stream(cuda.current_stream())

    class TooEarly(Broken):
        def load(self, version):
            done = self.loader.record_event()
            super().load(version)
            cuda.current_stream().wait_event(done)

    class Sleeps(Broken):  # passes a test that does not hold the loader
        def load(self, version):
            super().load(version)
            time.sleep(0.002)

    class Once(Broken):  # one event, recorded by the first load only
        done = None

        def load(self, version):
            super().load(version)
            self.done = self.done or self.loader.record_event()
            cuda.current_stream().wait_event(self.done)

    return {loader.__name__: loader for loader in (Event, InDecode, OneStream, WrongWay, TooEarly, Sleeps,
                                                     Once)}


@pytest.mark.kernels
@pytest.mark.parametrize("name", ["Fixed", "Event", "InDecode", "OneStream"])
def test_a_whole_load_passes(page, name, capsys):
    exercises.check_half(page.get(name) or loaders(page)[name])
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.kernels
@pytest.mark.parametrize("message, name", [
    ("behind 20 ms of work on the loader's stream: the step after it gave", "Broken"),
    ("behind 20 ms of work on the decode stream: the step before it gave", "Hasty"),
    ("load held the host for", "HostWaits"),
    ("the step after it gave", "WrongWay"),
    ("the step after it gave", "TooEarly"),
    ("the step after it gave", "Sleeps"),
    ("the step after it gave", "Once"),
])
def test_half_a_load_is_refused(page, message, name):
    with pytest.raises(AssertionError, match=message):
        exercises.check_half(page.get(name) or loaders(page)[name])


@pytest.mark.kernels
def test_the_regression_test(page):
    test = page["regression_test"]
    test(page["Fixed"]())
    test(page["HostWaits"]())
    with pytest.raises(AssertionError, match=r"loader held: step after: \[10\], not \[20\]"):
        test(page["Broken"]())
    with pytest.raises(AssertionError, match=r"decode held: step before: \[20\], not \[10\]"):
        test(page["Hasty"]())


@needs_interpreter
@pytest.mark.kernels
def test_the_measurements_on_a_slow_gpu(page):
    """`first_steps` and `last_steps` with the fault and the fix, and the experiment of hypothesis C."""
    first_steps, last_steps = page["first_steps"], page["last_steps"]
    broken, fixed = page["Broken"](), page["Fixed"]()
    assert first_steps(broken, runs=2) == [[10] * 2] * 2
    assert first_steps(fixed, runs=2) == [[20] * 2] * 2
    assert first_steps(broken, between=broken.loader.synchronize, runs=2) == [[20] * 2] * 2
    assert first_steps(broken, between=torch.cuda.current_stream().synchronize, runs=2) == [[10] * 2] * 2
    assert last_steps(fixed, 2, runs=2) == last_steps(broken, 2, runs=2) == [[10] * 2] * 2
    assert page["read"](fixed.decode(), token=1) == [30] * 2
    assert page["tally"]([[20, 20], [10, 20], [40, 20], [10, 10]]).split()[1::2] == ["1", "2", "1"]


@pytest.mark.gpu
def test_alone_the_fault_does_not_show(page):
    """Why the regression test holds a stream: without that, `Broken` is right nearly always."""
    found = page["first_steps"](page["Broken"](), runs=50)
    assert sum(set(load) == {20} for load in found) >= 45


def test_lint_names_the_load_in_a_step():
    from book import cases
    names = functions_of(PAGE)
    case = cases.Case("an unordered load", "S6", "", names["updating"](arrows=False),
                      names["updating"](arrows=True), names["inputs"])
    assert cases.linted(case, False) == "named"
    assert cases.linted(case, True) == "-"
