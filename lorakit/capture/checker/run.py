"""One run of a function under `lint`: where its tensors lie, what it launched, what was found."""

import contextlib
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import CodeType

from torch import Tensor

from lorakit.capture.checker.findings import BREAKS, FROZEN, NOTE, Finding
from lorakit.capture.checker.places import DEVICE, PAGEABLE, PINNED, Places, storage_of
from lorakit.capture.checker.waits import BLOCKING, CONVERTED, DOWNLOAD, UPLOAD, Cause, copy_cause
from lorakit.capture.lines import Line, is_library

REREAD = Cause("S7", "each replay copies from the pinned buffer that the capture made, whatever the host "
               "has by then", "a static pinned buffer, kept, and rewritten before a replay")
ADOPTED = Cause("", "a tensor from outside, taken to lie on the device, where a GPU needs it",
                "pass it as an argument")
LEFT = Cause("", "a tensor from outside, taken to lie on the host",
             "pass it as an argument if it stands for a device tensor")

OPAQUE = Cause("", "another library's operation: what it does inside is not seen", "probe it on a GPU")
GENERATOR = Cause("L18", "a generator of your own, which a capture refuses unless its graph knows it",
                  "graph.register_generator_state(generator) before the capture; or the default one")

Place = tuple[CodeType, int]  # a line of source


@dataclass
class Launch:
    """One operation or kernel as a graph would keep it. Equal ones replay alike."""

    op: str  # "aten.copy_", "triton route_kernel"
    line: Place | None = field(compare=False)
    scalars: dict[str, object]  # the arguments that hold no tensor, and a kernel's grid
    memory: list[tuple]  # of each tensor: its name or address; dtype, shape, strides, offset


class Run:
    """What one call of the function shows."""

    def __init__(self, compares: bool = False) -> None:
        self.compares, self.launched = compares, 0  # whether launches are kept, and how many there were
        self.places = Places()
        self.found: dict[tuple, Finding] = {}
        self.launches: list[Launch] = []
        self.made: list[tuple[weakref.ref, int, Place | None]] = []  # new device tensors: bytes, line
        self.names: dict[int, str] = {}  # id of a storage -> the input or the result that it is
        self.blamed: dict[int, list[tuple]] = {}  # id of an outside tensor's storage -> its breaks
        self.args, self.result = (), None
        self.start: Place | None = None  # of the function
        self.is_quiet = False  # nothing is looked at
        self.for_device = False  # a function of PyTorch's is running that was given device tensors
        self.on_launch: Callable[[str], None] = lambda op: None

    def report(self, severity: str, cause: Cause, op: str, line: Place | None = None) -> tuple:
        """Add a finding at the caller's line, or count one more of the same. Returns its key."""
        line = line or here()
        key = severity, cause, op, line
        if key in self.found:
            self.found[key] = replace(self.found[key], times=self.found[key].times + 1)
        else:
            self.found[key] = Finding(severity, cause.rule, line and Line.at(*line), op, cause.why,
                                      cause.fix)
        return key

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Nothing inside is looked at."""
        before, self.is_quiet = self.is_quiet, True
        try:
            yield
        finally:
            self.is_quiet = before

    def input(self, name: str, tensor: Tensor, place: str = DEVICE) -> None:
        """The function is given this tensor."""
        self.places.put(tensor, place)
        self.names.setdefault(id(storage_of(tensor)), name)

    def new(self, tensor: Tensor, place: str) -> Tensor:
        """The function made this tensor."""
        self.places.put(tensor, place, made=True)
        self.names[id(storage_of(tensor))] = f"temporary {len(self.names)}"
        if place == DEVICE:
            self.made.append((weakref.ref(tensor), tensor.numel() * tensor.element_size(), here()))
        return tensor

    def blame(self, key: tuple, op: str, given: list[Tensor]) -> None:
        """In the break of that key, tensors that are in no argument were taken to lie on the host."""
        for tensor in given:
            if not self.places.knows(tensor):
                note = self.report(NOTE, LEFT, op)
                self.blamed.setdefault(id(storage_of(tensor)), []).extend([key, note])

    def adopt(self, tensor: Tensor, op: str) -> None:
        """A tensor from outside is used as only a device tensor can be: it was one all along."""
        for key in self.blamed.pop(id(storage_of(tensor)), ()):
            self.found.pop(key, None)
        self.places.put(tensor, DEVICE)
        self.report(NOTE, ADOPTED, op)

    def launch(self, op: str, scalars: dict[str, object], given: list[Tensor]) -> None:
        """Something was launched on the current stream."""
        self.launched += 1
        self.on_launch(op)
        if self.compares:
            self.launches.append(Launch(op, here(), scalars, [self._memory(tensor) for tensor in given]))

    def _memory(self, tensor: Tensor) -> tuple:
        storage = storage_of(tensor)
        name = self.names.get(id(storage))
        if name is None:
            name = self.names[id(storage)] = f"address {tensor.data_ptr():#x}"
            self.places.put(tensor, self.places.of(tensor))
        if storage is tensor or tensor.is_nested:  # neither has strides
            return name, tensor.dtype
        return name, tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.storage_offset()

    def upload(self, op: str, source: Tensor) -> None:
        """A copy from pinned memory was launched: a replay makes it again, from the same address."""
        if self.places.of(source) == PINNED and self.places.made(source):
            self.report(FROZEN, REREAD, op)

    def move(self, tensor: Tensor, to: str, non_blocking: bool, **kind: object) -> Tensor:
        """The tensor's copy on the other side, as `.to()` makes it, of that dtype and memory format."""
        origin, op = self.places.of(tensor), "aten._to_copy"
        if to == PAGEABLE and non_blocking:
            to = PINNED  # PyTorch pins it by itself
        with self.quiet():
            result = tensor.to(**kind, copy=True)
        self.new(result, to)
        cause = copy_cause(result, to, tensor, origin, non_blocking)
        if cause:
            cause = cause if cause in (BLOCKING, CONVERTED, DOWNLOAD) else UPLOAD
            self.blame(self.report(BREAKS, cause, f"{op}({origin} to {to})"), op, [tensor])
        elif to == DEVICE:
            self.upload(f"{op}({origin} to {to})", tensor)
        self.launch(op, {"to": to, "dtype": result.dtype}, [tensor])
        return result


def here() -> Place | None:
    """The innermost line that runs and is neither a library's nor this package's tools'."""
    frame = sys._getframe(1)
    while frame and is_library(frame.f_code.co_filename):
        frame = frame.f_back
    return frame and (frame.f_code, frame.f_lineno)
