"""Which operations a capture refuses, by what they are given and by where it lies.

PyTorch's own tags name most operations that read the device. The others do it in their CUDA kernels,
which no CPU runs: that was measured, see `benchmarks/results/capture_snippets.json`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lorakit.capture.checker.places import DEVICE, PAGEABLE, Places
from lorakit.capture.recorder import needs_values, tensors

Named = dict[str, object]  # an operation's arguments, by their names in its schema


class Cause(NamedTuple):
    """Why a capture refuses something, and the usual way out."""

    rule: str
    why: str
    fix: str = ""


READ = Cause("L2", "the host needs a value from the device, and waits for it",
             "keep it on the device (torch.where, a mask, index_select), or read it after the replay")
SIZED = Cause("L2", "the result's size depends on values: the host waits to read it",
              "a fixed size: torch.where, a mask, nonzero_static, output_size=, scatter_add_ to count")
CHECKED = Cause("L2", "the host waits to read whether the library succeeded",
                "the form that leaves `info` on the device: cholesky_ex, inv_ex, solve_ex")
LIBRARY = Cause("L2", "its CUDA form waits for the device, or works on the host",
                "compute it before the capture")
VALUE = Cause("L3", "the value lies in pageable host memory, and is copied to the device",
              "zero_(), fill_() or a slice, x[i:i+1] = value, take it as a kernel's argument; or keep it "
              "in a device tensor")
INDICES = Cause("L3", "the indices lie in pageable host memory, and are copied to the device",
                "a slice, or an index tensor made on the device before")
UPLOAD = Cause("L3", "copies pageable host memory to the device",
               "zeros, full or arange there; or a static pinned buffer and copy_(non_blocking=True)")
DOWNLOAD = Cause("L3", "copies from the device to pageable host memory",
                 "copy after the replay, or into a static pinned buffer with non_blocking=True")
BLOCKING = Cause("L3", "waits for the stream: a copy of pinned memory blocks by default",
                 "non_blocking=True, and an event before the host touches the buffer again")
CONVERTED = Cause("L3", "the host makes the pinned tensor contiguous first, in pageable memory",
                  "a contiguous pinned tensor of the device tensor's shape")
STRANGER = Cause("L3", "an operand lies on the host: a GPU copies it, or refuses the operation",
                 "make it on the device, before")

COPIES = ("copy_", "copy", "_foreach_copy_", "_foreach_copy")
READS = ("_local_scalar_dense", "equal", "is_nonzero", "allclose")
INDEXES = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put")


def operation(func: Callable) -> str:
    """'copy_' of aten::copy_.default. Another library's operations keep its name."""
    return func._schema.name.removeprefix("aten::")


def cause_of(func: Callable, named: Named, places: Places) -> Cause | None:
    """Why a capture refuses an operation that was given device tensors, or None."""
    op = operation(func)
    if op in COPIES:
        pairs = zip(tensors(named["self"]), tensors(named["src"]))
        causes = [copy_cause(target, places.of(target), source, places.of(source),
                             bool(named.get("non_blocking"))) for target, source in pairs]
        return next(filter(None, causes), None)
    if op in INDEXES:
        return index_cause(named, places)
    if op in SPECIAL:
        return SPECIAL[op](named, places)
    if named.get("check_errors") is True:  # linalg.inv_ex and its like
        return CHECKED
    if needs_values(func, named):
        return READ if op in READS else SIZED
    return None


def copy_cause(target: Tensor, to: str, source: Tensor, origin: str, non_blocking: bool) -> Cause | None:
    """Why a capture refuses a copy from `origin` to `to`."""
    if (to == DEVICE) == (origin == DEVICE) or target.numel() == 0:
        return None
    if to == PAGEABLE:
        return DOWNLOAD
    if origin == PAGEABLE:
        return UPLOAD if source.dim() else VALUE
    if not non_blocking:
        return BLOCKING
    in_order = source.shape == target.shape and source.is_contiguous() if to == DEVICE else (
        target.is_contiguous())
    return None if in_order else CONVERTED


def index_cause(named: Named, places: Places) -> Cause | None:
    """x[indices], and x[indices] = values."""
    indices, values = tensors(named["indices"]), named.get("values")
    masks = [places.of(index) for index in indices if index.dtype in (torch.bool, torch.uint8)]
    value_on_host = values is not None and not places.on_device(values)
    if value_on_host and not values.dim() and masks == [DEVICE] and len(indices) == 1 and (
            not named.get("accumulate")):
        return None  # PyTorch makes it masked_fill, where the value is an argument of the kernel
    if DEVICE in masks:
        return SIZED
    if any(not places.on_device(index) and index.numel() and index.dtype != torch.bool for index in indices):
        return INDICES
    return VALUE if value_on_host else None


def when(cause: Cause, test: Callable[[Named, Places], bool] = lambda named, places: True
         ) -> Callable[[Named, Places], Cause | None]:
    return lambda named, places: cause if test(named, places) else None


def device_values(*names: str) -> Callable[[Named, Places], bool]:
    """True if one of these arguments is a device tensor."""
    return lambda named, places: any(places.on_device(named.get(name)) for name in names)


def host_values(*names: str) -> Callable[[Named, Places], bool]:
    """True if one of these arguments is a tensor on the host."""
    return lambda named, places: any(isinstance(named.get(name), Tensor) and not places.on_device(named[name])
                                     for name in names)


def unlike(named: Named, places: Places) -> bool:
    """True if torch.equal must look at the values."""
    one, two = named["self"], named["other"]
    return one.shape == two.shape and one.numel() > 0 and (
        one.data_ptr(), one.stride()) != (two.data_ptr(), two.stride())


def sorts(named: Named, places: Places) -> bool:
    """True if torch.isin sorts, and looks for the unique elements first."""
    elements, tests = named.get("elements"), named.get("test_elements")
    return isinstance(elements, Tensor) and isinstance(tests, Tensor) and (
        not named.get("assume_unique") and tests.numel() >= 10 * elements.numel() ** 0.145)


SPECIAL: dict[str, Callable[[Named, Places], Cause | None]] = {
    "equal": when(READ, unlike),
    "isin": when(READ, sorts),
    "_unique2": when(SIZED, lambda named, places: named["self"].numel() > 0),
    "histc": when(READ, lambda named, places: named.get("min", 0) == named.get("max", 0)),
    "where": when(VALUE, host_values("condition", "self", "other")),
    "bernoulli_": when(UPLOAD, host_values("p")),
    "normal": when(READ, device_values("std")),
    **dict.fromkeys(["masked_fill", "masked_fill_", "index_fill", "index_fill_"],
                    when(READ, device_values("value"))),
    **dict.fromkeys(["linspace", "logspace"], when(READ, device_values("start", "end"))),
    "segment_reduce": when(READ, lambda named, places: not named.get("unsafe")),
    "searchsorted": when(READ, device_values("sorter")),
    "mode": when(LIBRARY, lambda named, places: named["self"].dim() > 0 and (
        named["self"].shape[named.get("dim", -1)] > 2048)),  # up to there it is one kernel
    "_linalg_check_errors": when(CHECKED),
    **dict.fromkeys(["linalg_lstsq", "_linalg_svd", "_linalg_eigh", "linalg_eig", "linalg_pinv",
                     "_linalg_eigvals", "linalg_matrix_exp"], when(LIBRARY)),
    **dict.fromkeys(["_to_sparse", "_to_sparse_csr", "_to_sparse_csc", "_coalesce"], when(SIZED)),
    "to_padded_tensor": when(UPLOAD, lambda named, places: named["self"].is_nested),
    **dict.fromkeys(["_nested_tensor_from_mask", "_nested_tensor_from_mask_left_aligned"], when(READ)),
}
