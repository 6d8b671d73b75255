"""A stand-in for torch.cuda while a function runs under `lint`: streams, events and waits.

Streams know only who has waited for whom: that is all that the rules L5 to L8 and S6 are about.
"""

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from unittest import mock

import torch

from lorakit.capture.checker.findings import BREAKS, FROZEN
from lorakit.capture.checker.operations import Operations
from lorakit.capture.checker.questions import GPU
from lorakit.capture.checker.run import Run, here
from lorakit.capture.checker.waits import Cause

WAIT = Cause("L1", "the host waits for the device, or asks how far it is", "before or after the capture")
ASKED = Cause("L8", "the host asks an event of the capture, which has not happened", "after the replay")
UNCAPTURED = Cause("L7", "the capture waits for a stream that it does not hold",
                   "fork first: side.wait_stream(torch.cuda.current_stream())")
LEGACY = Cause("L5", "the default stream waits for the capture", "stay on the current stream")
UNJOINED = Cause("L6", "a forked stream has work that nobody waits for",
                 "torch.cuda.current_stream().wait_stream(side), before the end")
OUTSIDE = Cause("S6", "a stream that was not forked runs it once, now; no graph holds it",
                "side.wait_stream(current) before it, current.wait_stream(side) after it")
SEED = Cause("L18", "a generator may not be made or seeded in a capture", "before the capture")


Original = torch.Generator
PROPERTIES = SimpleNamespace(name="the GPU that lint stands for", major=9, minor=0, total_memory=1 << 37,
                             multi_processor_count=132, warp_size=32)
COUNTS = ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved")
NOTHING = ("empty_cache", "ipc_collect", "reset_peak_memory_stats", "reset_max_memory_allocated", "_sleep")


class Stream:
    """Stands for a CUDA stream. Each run makes a class of its own of it, with its `cuda`."""

    cuda: "Cuda"
    device, device_index = GPU, 0

    def __init__(self, *_, **__) -> None:
        self.captured, self.work, self.last = False, 0, None
        self.seen: dict[Stream, int] = {}  # how much of each stream's work comes before its next
        self.cuda_stream = id(self)
        self.cuda.streams.append(self)

    def record_event(self, event: "Event | None" = None) -> "Event":
        event = event or self.cuda.Event()
        event.record(self)
        return event

    def wait_event(self, event: "Event") -> None:
        event.wait(self)

    def wait_stream(self, other: "Stream") -> None:
        other.record_event().wait(self)

    def synchronize(self) -> None:
        self.cuda.run.report(BREAKS, WAIT, "torch.cuda.Stream.synchronize")

    def query(self) -> bool:
        self.cuda.run.report(BREAKS, WAIT, "torch.cuda.Stream.query")
        return True

    def is_capturing(self) -> bool:
        return self.captured

    def __enter__(self) -> "Stream":
        self.cuda.entered.append(self.cuda.current)
        self.cuda.current = self
        return self

    def __exit__(self, *_) -> None:
        self.cuda.current = self.cuda.entered.pop()


class Event:
    """Stands for a CUDA event. Each run makes a class of its own of it, with its `cuda`."""

    cuda: "Cuda"

    def __init__(self, *_, **__) -> None:
        self.stream, self.captured, self.seen = None, False, {}

    def record(self, stream: Stream | None = None) -> None:
        self.stream = stream or self.cuda.current
        self.captured = self.stream.captured
        self.seen = self.stream.seen | {self.stream: self.stream.work}

    def wait(self, stream: Stream | None = None) -> None:
        stream = stream or self.cuda.current
        if self.stream is None or self.stream is stream:
            return  # never recorded, or in order already
        if self.captured and stream is self.cuda.default:
            self.cuda.run.report(BREAKS, LEGACY, "torch.cuda.Stream.wait_event")
        elif stream.captured and not self.captured:
            self.cuda.run.report(BREAKS, UNCAPTURED, "torch.cuda.Stream.wait_event")
        else:
            stream.captured = stream.captured or self.captured
        for other, work in self.seen.items():
            stream.seen[other] = max(work, stream.seen.get(other, 0))

    def query(self) -> bool:
        self._asked("query")
        return True

    def synchronize(self) -> None:
        self._asked("synchronize")

    def elapsed_time(self, end: "Event") -> float:
        self._asked("elapsed_time")
        return 0.0

    def _asked(self, name: str) -> None:
        if self.stream is not None:
            self.cuda.run.report(BREAKS, ASKED if self.captured else WAIT, f"torch.cuda.Event.{name}")


class Answer:
    """A function that gives one answer, whatever it is asked. Each is an object of its own."""

    def __init__(self, value: object = None) -> None:
        self.value = value

    def __call__(self, *_, **__) -> object:
        return self.value


class Device(contextlib.nullcontext):
    """Stands for torch.cuda.device: there is one."""

    def __init__(self, *_) -> None:
        super().__init__()


class Cuda:
    """torch.cuda in a capture, on a machine with one GPU."""

    def __init__(self, run: Run) -> None:
        self.run, self.streams, self.entered = run, [], []
        self.Stream, self.Event = (type(kind.__name__, (kind,), {"cuda": self}) for kind in (Stream, Event))
        self.default, self.origin = self.Stream(), self.Stream()
        self.origin.captured, self.current = True, self.origin
        run.on_launch = self._launched

    def _launched(self, op: str) -> None:
        self.current.work, self.current.last = self.current.work + 1, here()
        if not self.current.captured:
            self.run.report(FROZEN, OUTSIDE, op)

    def _set_stream(self, stream: Stream) -> None:
        self.current = stream

    def _breaks(self, cause: Cause, name: str) -> Callable[..., None]:
        return lambda *_, **__: self.run.report(BREAKS, cause, name)

    def _seed(self, seed: int) -> None:
        if seed != torch.initial_seed():  # the same again changes nothing
            self.run.report(BREAKS, SEED, "torch.cuda.manual_seed")

    def _generator(self) -> type[torch.Generator]:
        cuda = self

        class Kind(type(Original)):
            def __instancecheck__(cls, value: object) -> bool:
                return type(value) in (cls, Original)

        class Generator(Original, metaclass=Kind):
            """torch.Generator, on a CPU whatever it is told."""

            def __new__(cls, device: object = "cpu") -> "Generator":
                if str(device) != "cpu":
                    cuda.run.report(BREAKS, SEED, "torch.Generator(device)")
                return super().__new__(cls)

            def __init__(self, device: object = "cpu") -> None:
                super().__init__()

        return Generator

    def end(self) -> None:
        """The capture ends: it must have waited for each stream that it holds."""
        for stream in self.streams:
            if stream.captured and stream is not self.origin and (
                    stream.work > self.origin.seen.get(stream, 0)):
                self.run.report(BREAKS, UNJOINED, "the end of the capture", stream.last)

    @contextlib.contextmanager
    def patched(self) -> Iterator[None]:
        """PyTorch answers as in a capture, in all threads."""
        with Operations(Run()):
            torch.empty(0)  # the first such mode in a process makes PyTorch import much
        synchronize = self._breaks(WAIT, "synchronize")
        answers = {
            torch.cuda: {
                "synchronize": synchronize, "Stream": self.Stream, "Event": self.Event, "device": Device,
                "current_stream": lambda *_: self.current, "default_stream": lambda *_: self.default,
                "stream": lambda stream: stream or contextlib.nullcontext(), "set_stream": self._set_stream,
                "is_available": Answer(True), "is_current_stream_capturing": Answer(True),
                "current_device": Answer(0), "device_count": Answer(1), "set_device": Answer(),
                "get_device_name": Answer(PROPERTIES.name), "get_device_capability": Answer((9, 0)),
                "get_device_properties": Answer(PROPERTIES), "mem_get_info": Answer((1 << 36, 1 << 36)),
                "manual_seed": self._seed, "manual_seed_all": self._seed, "initial_seed": torch.initial_seed,
                "get_rng_state": lambda *_: torch.get_rng_state(), "set_rng_state": Answer(), "device_of": Device,
                **{name: Answer(0) for name in COUNTS}, **{name: Answer() for name in NOTHING}},
            torch.cuda.nvtx: {"range_push": Answer(), "range_pop": Answer(), "mark": Answer()},
            torch.accelerator: {"synchronize": synchronize, "current_accelerator": Answer(GPU),
                                "is_available": Answer(True), "current_device_index": Answer(0),
                                "current_stream": lambda *_: self.current},
            torch.backends.cuda: {"is_built": Answer(True)},
            torch.backends.cudnn: {"is_acceptable": Answer(False)},
            torch: {"Generator": self._generator()},
            torch.Tensor: {"record_stream": lambda *_: None},
        }
        with contextlib.ExitStack() as stack:
            for owner, names in answers.items():
                for name, answer in names.items():
                    stack.enter_context(mock.patch.object(owner, name, answer))
            try:
                yield
            finally:
                self.run = Run()  # what the function keeps of the stand-ins must not keep its tensors
