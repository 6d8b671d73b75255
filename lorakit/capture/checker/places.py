"""Where each tensor would lie on a machine with a GPU.

Every tensor here is one on the CPU. Those that stand for device tensors are remembered by their
storage, so that views and aliases are known without being wrapped, and the results stay right.
"""

import collections
import functools
import inspect
import sys
import sysconfig
import types
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

STDLIB = sysconfig.get_path("stdlib")
DEVICE, PINNED, PAGEABLE = "device", "pinned", "pageable"


@dataclass(frozen=True)
class Host:
    """An argument of `lint` that lies on the host: `Host(tensor)`, or `Host(tensor, pinned=True)`.

    The function is given the tensor itself.
    """

    tensor: Tensor
    pinned: bool = False  # in page-locked memory, where `pin_memory()` would have put it


class Places:
    """The place of each storage that a run has met. It keeps them alive, so that none comes twice."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[object, str, bool]] = {}  # id -> storage, its place, made here

    def put(self, tensor: Tensor, place: str, made: bool = False) -> None:
        """Remember where a tensor's storage lies, and whether the run made it."""
        storage = storage_of(tensor)
        self._known[id(storage)] = storage, place, made

    def of(self, tensor: Tensor) -> str:
        """DEVICE or PINNED if it was put there, else PAGEABLE."""
        return self._known.get(id(storage_of(tensor)), (None, PAGEABLE, False))[1]

    def knows(self, tensor: Tensor) -> bool:
        """True if the run was given the tensor, or made it."""
        return id(storage_of(tensor)) in self._known

    def any_device(self) -> bool:
        """True if any tensor lies on the device."""
        return any(place == DEVICE for _, place, _ in self._known.values())

    def made(self, tensor: Tensor) -> bool:
        return self._known.get(id(storage_of(tensor)), (None, PAGEABLE, False))[2]

    def on_device(self, value: object) -> bool:
        return isinstance(value, Tensor) and self.of(value) == DEVICE

    def any_on_device(self, values: object) -> bool:
        """True if a device tensor is among the values, or in a list or tuple among them."""
        return any(self.any_on_device(value) if isinstance(value, list | tuple) else self.on_device(value)
                   for value in values)


def storage_of(tensor: Tensor) -> object:
    """A tensor's storage, one object for all its views. A sparse or lazy one has none: it is its own."""
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError, ValueError):
        return tensor


def tensors_in(tree: object, name: str, seen: set[int] | None = None) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of each tensor in containers, modules, dataclasses and other objects, once."""
    seen = set() if seen is None else seen
    if id(tree) in seen or isinstance(tree, str | int | float | type | types.ModuleType | None):
        return
    seen.add(id(tree))
    if isinstance(tree, Tensor):
        yield name, tree
    else:
        for key, part in parts_of(tree):
            yield from tensors_in(part, name + key, seen)


def parts_of(tree: object) -> list[tuple[str, object]]:
    """What a container, object or function holds, with names.

    Of a function's closure and globals not the bare tensors and containers: they may lie on the host.
    """
    if isinstance(tree, Host):
        raise TypeError("Host must be an argument of lint itself, not a part of one")
    if isinstance(tree, dict):
        return [(f"[{key!r}]", part) for key, part in tree.items()]
    if isinstance(tree, tuple | list | set | frozenset | collections.deque):
        return [(f"[{i}]", part) for i, part in enumerate(tree)]
    if isinstance(tree, functools.partial):
        return [("", tree.func), ("", tree.args), ("", tree.keywords)]
    if isinstance(tree, types.MethodType):
        return [("", tree.__self__), ("", tree.__func__)]
    if isinstance(tree, types.FunctionType):
        try:
            held = inspect.getclosurevars(tree)
        except ValueError:  # a cell of its closure is still empty
            return []
        return [(f".{name}", part) for name, part in (held.nonlocals | held.globals).items()
                if is_own(part)]
    names = [name for kind in type(tree).__mro__ for name in getattr(kind, "__slots__", ())]
    slots = {name: getattr(tree, name) for name in names if hasattr(tree, name)} if is_own(tree) else {}
    return [(f".{name}", part) for name, part in (slots | getattr(tree, "__dict__", {})).items()
            if name != "__globals__"]  # a Triton kernel keeps those of the module that it stands in


def is_own(value: object) -> bool:
    """True for modules of PyTorch, and for objects and functions whose code is no library's."""
    if isinstance(value, torch.nn.Module):
        return True
    if isinstance(value, Tensor | type | types.ModuleType) or type(value).__module__ == "builtins" and (
            not isinstance(value, types.FunctionType)):
        return False
    named = value.__module__ if isinstance(value, types.FunctionType) else type(value).__module__
    file = getattr(sys.modules.get(named or ""), "__file__", None) or ""
    return "-packages" not in file and not file.startswith(STDLIB)
