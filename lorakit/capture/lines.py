"""Which line of the reader's own code it was: in an error's traceback, or while a call waits."""

import functools
import linecache
import os
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import CodeType, FrameType, TracebackType

import torch

from lorakit import timing

HERE = os.path.dirname(__file__)


@dataclass(frozen=True)
class Line:
    """A line of source, where it is, and how long it held the host."""

    function: str  # qualified name
    number: int  # in its file or cell, from 1
    source: str  # stripped, "" where there is no source
    ms: float = 0.0  # host milliseconds, if it was timed
    file: str = field(default="", compare=False, repr=False)  # of the source

    def __str__(self) -> str:
        return f"`{self.source}` (line {self.number}, {self.function})"

    @classmethod
    def at(cls, code: CodeType, number: int, ms: float = 0.0) -> "Line":
        source = linecache.getline(code.co_filename, number).strip()
        return cls(code.co_qualname, number, source, ms, code.co_filename)


@functools.cache
def is_library(file: str) -> bool:
    """True for PyTorch, Triton, Python's own modules and this package's tools."""
    if "site-packages" not in file and "dist-packages" not in file:
        return file.startswith((HERE, "<frozen", sysconfig.get_path("stdlib")))
    return file.startswith(HERE) or any(f"-packages{os.sep}{name}{os.sep}" in file
                                        for name in ("torch", "triton"))


def last_place(traceback: TracebackType | None) -> tuple[CodeType, int] | None:
    """The innermost line of the reader's code in a traceback, as code and number, or None."""
    found = None
    while traceback:
        if not is_library(traceback.tb_frame.f_code.co_filename):
            found = traceback.tb_frame.f_code, traceback.tb_lineno
        traceback = traceback.tb_next
    return found


def lines_that_wait(fn: Callable[[], object], queued_ms: float) -> list[Line]:
    """Run fn() behind queued work and find each line that waits for it. Synchronises.

    Whenever a line has waited, work is queued anew, so that the next one shows too.
    """
    watch = Watch(queued_ms)
    previous = sys.gettrace()
    torch.cuda.synchronize()
    timing.queue_work(queued_ms)
    sys.settrace(watch)
    try:
        watch.since = time.perf_counter()
        fn()
    finally:
        sys.settrace(previous)
    watch.move(None)
    torch.cuda.synchronize()
    return watch.found


class Watch:
    """A trace function: Python calls it before each line, and when a function starts or returns."""

    def __init__(self, queued_ms: float) -> None:
        self.queued_ms, self.since = queued_ms, time.perf_counter()
        self.place: tuple[CodeType, int] | None = None  # the line that runs now
        self.found: list[Line] = []

    def __call__(self, frame: FrameType, event: str, _) -> "Watch | None":
        if is_library(frame.f_code.co_filename):
            return None
        caller = frame.f_back if event == "return" else frame
        while caller and is_library(caller.f_code.co_filename):
            caller = caller.f_back
        self.move((caller.f_code, caller.f_lineno) if caller else None)
        return self

    def move(self, place: tuple[CodeType, int] | None) -> None:
        """Charge the time since the last move to the line that ran, and go on to the next."""
        ms = (time.perf_counter() - self.since) * 1e3
        if ms > self.queued_ms / 2:
            if self.place:
                self.found.append(Line.at(*self.place, ms))
            torch.cuda.synchronize()
            timing.queue_work(self.queued_ms)
        self.place, self.since = place, time.perf_counter()
