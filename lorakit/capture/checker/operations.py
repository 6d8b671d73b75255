"""The dispatch mode: each operation that PyTorch runs, and where its operands lie."""

import functools
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lorakit.capture.checker.findings import BREAKS, NOTE
from lorakit.capture.checker.places import DEVICE, PAGEABLE, PINNED, storage_of
from lorakit.capture.checker.run import GENERATOR, LEFT, OPAQUE, Run
from lorakit.capture.checker.waits import COPIES, INDEXES, STRANGER, Cause, cause_of, operation
from lorakit.capture.recorder import tensors

IS_NO_WORK = ("lift_fresh", "detach", "alias", "view", "select", "slice", "_local_scalar_dense")
TAKES_HOST = ("where", "bernoulli_", "_pack_padded_sequence", *COPIES, *INDEXES)


@functools.cache
def signature(func: Callable) -> tuple[str, str, list[str], bool]:
    """An operation's name, with and without `aten`; its arguments' names; whether it writes into one."""
    arguments = func._schema.arguments
    return (func._schema.name.replace("::", "."), operation(func),
            [argument.name for argument in arguments], any(argument.is_write for argument in arguments))


class Operations(TorchDispatchMode):
    """Looks at each operation before it runs, and remembers where its results would lie."""

    supports_higher_order_operators = True

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        run, kwargs = self.run, kwargs or {}
        if run.is_quiet:
            return func(*args, **kwargs)
        given = tensors([args, kwargs])
        uses_device = run.places.any_on_device(given)
        if not hasattr(func, "_schema"):  # torch.cond, flex_attention: of higher order, not looked into
            run.report(NOTE, OPAQUE, func.name())
            with run.quiet():
                result = func(*args, **kwargs)
            for tensor in tensors(result):
                run.new(tensor, DEVICE if uses_device else PAGEABLE)
            return result
        if torch.is_inference_mode_enabled():  # there PyTorch leaves its composite operations whole
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        full, op, names, writes = signature(func)
        named = dict(zip(names, args)) | kwargs
        if uses_device:
            with run.quiet():
                self.check(func, named, given)
        elif op not in IS_NO_WORK and not all(map(run.places.knows, given)):
            run.report(NOTE, LEFT, full)
        result = func(*args, **kwargs)
        before = {id(storage_of(tensor)) for tensor in given}
        made = [tensor for tensor in tensors(result) if id(storage_of(tensor)) not in before]
        if op == "lift_fresh" and not run.places.knows(result):
            made = [result]  # a value that was written in Python
        for i, tensor in enumerate(made):
            run.new(tensor, self.place(op, i, uses_device, bool(given)))
        if uses_device and (made or writes):
            scalars = {name: value for name, value in named.items() if not tensors(value)}
            run.launch(full, scalars, given)
        return result

    def check(self, func: Callable, named: dict[str, object], given: list[Tensor]) -> None:
        """Report what a capture would refuse, before the operation runs."""
        run, (op, *_) = self.run, signature(func)
        needed = [tensor for name, value in named.items() for tensor in tensors(value) if name != "scalars"]
        if func.namespace != "aten":
            run.report(NOTE, OPAQUE, op)
        if any(isinstance(value, Generator) for value in named.values()):
            run.report(BREAKS, GENERATOR, op)
        cause = cause_of(func, named, run.places) or self.strangers(func, needed)
        if cause:
            key = run.report(BREAKS, cause, f"{op}({', '.join(map(run.places.of, given))})")
            run.blame(key, op, given)
        elif op == "aten.copy_" and run.places.on_device(named["self"]):
            run.upload(f"{op}(device, {run.places.of(named['src'])})", named["src"])

    def strangers(self, func: Callable, given: list[Tensor]) -> Cause | None:
        """Operands on the host, of more than one number, where a kernel needs them on the device."""
        places, cause = self.run.places, None
        for tensor in given:
            if tensor.is_nested or not tensor.dim() or places.on_device(tensor) or (
                    operation(func) in TAKES_HOST):
                continue
            if places.made(tensor) or places.of(tensor) == PINNED:
                cause = STRANGER
            else:
                self.run.adopt(tensor, signature(func)[0])
        return cause

    def place(self, op: str, i: int, uses_device: bool, was_given: bool) -> str:
        """Where a GPU would have the operation's i-th new tensor."""
        if op == "_pack_padded_sequence" and i == 1:
            return PAGEABLE  # the batch sizes
        # A factory inside of PyTorch makes its tensor like the operands; a value that was
        # written in Python comes in by lift_fresh.
        made_alike = self.run.for_device and not was_given and op != "lift_fresh"
        return DEVICE if uses_device or made_alike else PAGEABLE
