"""What PyTorch does not tell of a graph, asked of the CUDA driver: its nodes and their arguments.

The driver is the library that every CUDA program has loaded already. Nothing here launches work.
"""

import contextlib
import ctypes
import functools
from dataclasses import dataclass

import torch

KINDS = ("kernel", "memcpy", "memset", "host", "child graph", "empty", "wait event", "record event",
         "signal semaphore", "wait semaphore", "malloc", "free", "batch memory op", "conditional")
KERNEL, MEMCPY, MEMSET = range(3)
RELAXED_MODE = 2


class KernelParams(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS_v2 of cuda.h."""

    _fields_ = [("function", ctypes.c_void_p),
                *((f"{what}_{axis}", ctypes.c_uint) for what in ("grid", "block") for axis in "xyz"),
                ("shared_bytes", ctypes.c_uint), ("arguments", ctypes.POINTER(ctypes.c_void_p)),
                ("extra", ctypes.c_void_p), ("kernel", ctypes.c_void_p), ("context", ctypes.c_void_p)]


@dataclass(frozen=True)
class Node:
    """One piece of work of a graph, with all that the graph froze about it."""

    kind: str  # "kernel", "memcpy", "memset", ...
    name: str  # of the kernel, as compiled; the kind for others
    grid: tuple[int, ...]  # programs and threads a program, () if no kernel
    variant: int  # the driver's handle of the compiled kernel: a specialisation has its own
    arguments: bytes  # all arguments, one after the other, each padded to 8 bytes

    def words(self) -> list[int]:
        """The arguments as 64-bit integers: addresses, sizes and scalars alike."""
        return [int.from_bytes(self.arguments[i:i + 8], "little")
                for i in range(0, len(self.arguments), 8)]


@functools.cache
def library() -> ctypes.CDLL:
    """The driver's library. Raises OSError where there is none."""
    return ctypes.CDLL("nvcuda.dll" if hasattr(ctypes, "WinDLL") else "libcuda.so.1")


def call(name: str, *arguments: object) -> None:
    """Call a function of the driver. Raises RuntimeError, with CUDA's number, if it fails."""
    code = getattr(library(), name)(*arguments)
    if code:
        raise RuntimeError(f"{name} failed with CUDA error {code}")


def nodes(graph: torch.cuda.CUDAGraph) -> list[Node]:
    """The nodes of a graph made with `keep_graph=True`, in the order of their capture.

    Does not synchronise. Raises RuntimeError if the driver refuses.
    """
    handle, count = ctypes.c_void_p(graph.raw_cuda_graph()), ctypes.c_size_t()
    call("cuGraphGetNodes", handle, None, ctypes.byref(count))
    handles = (ctypes.c_void_p * count.value)()
    if count.value:
        call("cuGraphGetNodes", handle, handles, ctypes.byref(count))
    return [describe(ctypes.c_void_p(node)) for node in handles]


def describe(node: ctypes.c_void_p) -> Node:
    """One node. A driver older than CUDA 12.4 does not tell a kernel's arguments: then b""."""
    number = ctypes.c_int()
    call("cuGraphNodeGetType", node, ctypes.byref(number))
    kind = KINDS[number.value] if number.value < len(KINDS) else f"kind {number.value}"
    if number.value == KERNEL:
        params = KernelParams()
        call("cuGraphKernelNodeGetParams_v2", node, ctypes.byref(params))
        by, handle = ("Func", params.function) if params.function else ("Kernel", params.kernel)
        name = ctypes.c_char_p(b"kernel")
        if ask := getattr(library(), f"cu{by}GetName", None):  # since CUDA 12.3
            ask(ctypes.byref(name), ctypes.c_void_p(handle))
        grid = tuple(getattr(params, f"{what}_{axis}") for what in ("grid", "block") for axis in "xyz")
        return Node(kind, name.value.decode(), grid, handle,
                    arguments_of(f"cu{by}GetParamInfo", ctypes.c_void_p(handle), params.arguments))
    raw = ctypes.create_string_buffer(512)  # longer than either structure
    if number.value in (MEMCPY, MEMSET):
        call(f"cuGraph{kind.title()}NodeGetParams", node, raw)
    return Node(kind, kind, (), 0, raw.raw)


def arguments_of(ask: str, kernel: ctypes.c_void_p, values) -> bytes:
    """The bytes of a kernel's arguments."""
    found, index, offset, size = b"", 0, ctypes.c_size_t(), ctypes.c_size_t()
    asked = getattr(library(), ask, None)
    while asked and values and not asked(
            kernel, ctypes.c_size_t(index), ctypes.byref(offset), ctypes.byref(size)):
        value = ctypes.string_at(values[index], size.value)
        found += value + bytes(-len(value) % 8)
        index += 1
    return found


def mend(graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream, pool: tuple[int, int]) -> None:
    """End a capture that CUDA has refused, so that PyTorch's generator and memory pool are well.

    PyTorch 2.11 gives up ending such a capture half-way. A second one, with nothing in it, begun on
    the same stream lets it go all the way; chapter *The loud rules* shows both. Later versions have
    forgotten the capture by then, and say so: the stream and the pool are put right by hand. Does
    not synchronise.
    """
    with torch.cuda.stream(stream):
        if not torch.cuda.is_current_stream_capturing():
            call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream.cuda_stream), RELAXED_MODE)
        try:
            graph.capture_end()
        except RuntimeError:
            if torch.cuda.is_current_stream_capturing():
                call("cuStreamEndCapture", ctypes.c_void_p(stream.cuda_stream),
                     ctypes.byref(ctypes.c_void_p()))
            with contextlib.suppress(RuntimeError):  # the pool is told already, but by 2.12
                torch._C._cuda_endAllocateToPool(stream.device_index, pool)
