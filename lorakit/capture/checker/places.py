"""Where each tensor would lie on a machine with a GPU.

Every tensor here is one on the CPU. Those that stand for device tensors are remembered by their
storage, so that views and aliases are known without being wrapped, and the results stay right.
"""

import dataclasses
import functools
import inspect
import types
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

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
    """A tensor's storage, one object for all its views. A sparse tensor has none, and is its own."""
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return tensor


def tensors_in(tree: object, name: str, seen: set[int] | None = None) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of each tensor in containers, modules, dataclasses and other objects, once."""
    seen = set() if seen is None else seen
    if id(tree) in seen or isinstance(tree, str | int | float | type | types.ModuleType | None):
        return
    seen.add(id(tree))
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, torch.nn.Module):
        for key, part in (*tree.named_parameters(), *tree.named_buffers()):
            yield from tensors_in(part, f"{name}.{key}", seen)
    else:
        for key, part in parts_of(tree):
            yield from tensors_in(part, name + key, seen)


def parts_of(tree: object) -> list[tuple[str, object]]:
    """What a function or container holds. Of a closure and of globals only modules and dataclasses: a
    bare tensor from there may lie on the host."""
    if isinstance(tree, dict):
        return [(f"[{key!r}]", part) for key, part in tree.items()]
    if isinstance(tree, tuple | list | set | frozenset):
        return [(f"[{i}]", part) for i, part in enumerate(tree)]
    if isinstance(tree, functools.partial):
        return [("", tree.func), ("", tree.args), ("", tree.keywords)]
    if isinstance(tree, types.MethodType):
        return [("", tree.__self__), ("", tree.__func__)]
    if isinstance(tree, types.FunctionType):
        held = inspect.getclosurevars(tree)
        return [(f".{name}", part) for name, part in (held.nonlocals | held.globals).items()
                if isinstance(part, torch.nn.Module) or dataclasses.is_dataclass(part)]
    return [(f".{name}", part) for name, part in getattr(tree, "__dict__", {}).items()]
