"""*A CUDA graph in thirty lines of Python* derives this, and lists what it does not model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


class Memory(NamedTuple):
    """A tensor as a graph knows it: where it lies and how. It has no name."""
    place: int  # the storage's number, in the order in which storages appear
    address: int  # of the storage, or 0 if the recording made it
    layout: tuple  # dtype, shape, strides, offset in elements
    written: bool  # the operation writes here


@dataclass
class Call:
    """One recorded operation. Equal calls do the same when they are replayed."""
    op: str  # such as 'aten.mul.Tensor'
    scalars: dict[str, object]  # the arguments that hold no tensor: frozen
    given: list[Memory]  # the tensors among the arguments
    results: list[Memory]
    again: tuple = field(repr=False, compare=False)  # func, args, kwargs and the first result


class Recorder(TorchDispatchMode):
    """`with graph.capture(): y = x * 2` records `graph.calls`; `graph.replay()` runs them again.

    As with a CUDA graph, nothing has run when the block ends: memory from outside is as it was, and
    what the block made has all its bits set. It keeps its tensors alive, and never synchronises.
    """
    calls: list[Call] = []

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Raises RuntimeError if the block needs a value from the device; keeps no calls then."""
        self.calls, self._tape, self._before = [], [], {}
        self.places: dict[int, int] = {}  # address of a storage -> its number
        try:
            with self:
                yield
            self.calls = self._tape
        finally:
            for storage, old in self._before.values():  # old is None if the block made it
                storage.fill_(255) if old is None else storage.copy_(old)

    def replay(self) -> None:
        """Run the calls on what their memory holds now. Raises RuntimeError if there are none."""
        if not self.calls:
            raise RuntimeError("nothing to replay: no capture has recorded an operation")
        for func, args, kwargs, result in (call.again for call in self.calls):
            for old, new in zip(tensors(result), tensors(func(*args, **kwargs))):
                if old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    old.copy_(new)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        schema, kwargs = func._schema.arguments, kwargs or {}
        named = dict(zip([argument.name for argument in schema], args)) | kwargs
        if needs_values(func, named):
            raise RuntimeError(f"{func}: the host may not read the device in a capture (rule L2)")
        writes = {argument.name for argument in schema if argument.is_write}
        given = [self._memory(t, name in writes) for name in named for t in tensors(named[name])]
        result = func(*args, **kwargs)
        results = [self._memory(t, made=True) for t in tensors(result)]
        scalars = {name: value for name, value in named.items() if not tensors(value)}
        again = tree_map_only(torch.Tensor, torch.Tensor.detach, (func, args, kwargs, result))
        self._tape.append(Call(str(func), scalars, given, results, again))
        return result

    def _memory(self, tensor: torch.Tensor, written: bool = False, made: bool = False) -> Memory:
        storage, address = tensor.untyped_storage(), tensor.untyped_storage().data_ptr()
        made = made and address not in self.places
        place = self.places.setdefault(address, len(self.places))
        if (made or written) and address not in self._before:
            self._before[address] = storage, None if made else storage.clone()
        outside = self._before.get(address, (storage, storage))[1] is not None
        layout = (tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.storage_offset())
        return Memory(place, address if outside else 0, layout, made or written)


def needs_values(func: Callable, named: dict[str, object]) -> bool:
    """True if the host cannot go on, or cannot size the result, without values of the device."""
    mask = any(t.dtype in (torch.bool, torch.uint8) for t in tensors(named.get("indices")))
    sized = "output_size" in named or func is torch.ops.aten.index.Tensor and not mask
    return torch.Tag.data_dependent_output in func.tags or (
        torch.Tag.dynamic_output_shape in func.tags and not sized)


def tensors(tree: object) -> list[torch.Tensor]:
    """The tensors among an operation's arguments or results, in order."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [t for part in tree for t in tensors(part)] if isinstance(tree, list | tuple) else []
