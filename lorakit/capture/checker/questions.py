"""The function mode: each call of PyTorch's Python interface, with the answers of a GPU.

It says where a tensor lies, makes device tensors where the code asks for `device="cuda"`, and sees what
never becomes an operation, such as `tolist` and `print`.
"""

import sys
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.overrides import TorchFunctionMode

from lorakit.capture.checker.findings import BREAKS
from lorakit.capture.checker.places import DEVICE, PAGEABLE, PINNED, storage_of
from lorakit.capture.checker.run import GENERATOR, Run
from lorakit.capture.checker.waits import DOWNLOAD, INDICES, LIBRARY, READ, UPLOAD
from lorakit.capture.recorder import tensors

GPU = torch.device("cuda", 0)


class Questions(TorchFunctionMode):
    """Answers for tensors that stand for device tensors; leaves the others to PyTorch."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def __torch_function__(self, func, types, args=(), kwargs=None):
        run, kwargs = self.run, kwargs or {}
        if run.is_quiet:
            return func(*args, **kwargs)
        if answer := ANSWERS.get(func):
            return answer(run, func, args, kwargs)
        device = kwargs.get("device")
        if device is not None and str(device) != "meta" or kwargs.get("pin_memory"):
            return factory(run, func, args, kwargs)
        before, run.for_device = run.for_device, run.for_device or run.places.any_on_device(
            [*args, *kwargs.values()])
        try:
            return func(*args, **kwargs)
        finally:
            run.for_device = before


def place_of(device: object) -> str:
    """DEVICE for "cuda", "cuda:1", 0 or a torch.device of that type; PAGEABLE for the CPU."""
    return PAGEABLE if str(device).split(":")[0] == "cpu" else DEVICE


def factory(run: Run, func: Callable, args: tuple, kwargs: dict) -> object:
    """A call with `device=` or `pin_memory=`: its results lie there, as if they were made there."""
    if func in (torch.ops.aten._to_copy, torch.ops.aten._to_copy.default):
        return to(run, func, args, kwargs)
    kwargs = dict(kwargs)
    device, pinned = kwargs.get("device"), kwargs.pop("pin_memory", False)
    if device is not None:
        kwargs["device"] = "cpu"
    result = func(*args, **kwargs)
    for tensor in tensors(result) if kwargs.get("out") is None else ():
        run.new(tensor, PINNED if pinned else PAGEABLE if device is None else place_of(device))
    if device is not None and place_of(device) == DEVICE:
        if isinstance(kwargs.get("generator"), Generator):
            run.report(BREAKS, GENERATOR, f"torch.{func.__name__}(device)")
        run.launch(f"torch.{func.__name__}", {"args": args} if not tensors(args) else {}, tensors(result))
    return result


def data(run: Run, func: Callable, args: tuple, kwargs: dict) -> Tensor:
    """torch.tensor and its relatives: Python's values start on the host, but for scalar_tensor's."""
    kwargs = dict(kwargs)
    device, pinned = kwargs.pop("device", None), kwargs.pop("pin_memory", False)
    like = args[0] if func is torch.Tensor.new_tensor else None
    values = [*(args if like is None else args[1:]), *(kwargs[name] for name in ("data", "obj", "s")
                                                       if name in kwargs)]
    value, given = values[0], isinstance(values[0], Tensor)
    origin = run.places.of(value) if given else PAGEABLE
    place = (place_of(device) if device is not None else run.places.of(like) if like is not None
             else origin)
    if given and (place == DEVICE) != (origin == DEVICE):
        return run.move(value, place, False, dtype=kwargs.get("dtype"))
    with run.quiet():
        result = func(*args, **kwargs)
    if given and storage_of(result) is storage_of(value):
        return result  # as_tensor of a tensor
    if not given and run.places.any_on_device([value]):
        run.report(BREAKS, READ, f"torch.{func.__name__}(device values)")
    if not given and place == DEVICE and result.numel() and func is not torch.scalar_tensor:
        run.report(BREAKS, UPLOAD, f"torch.{func.__name__}(pageable to device)")
    return run.new(result, PINNED if pinned else place)


def to(run: Run, func: Callable, args: tuple, kwargs: dict) -> Tensor:
    """Tensor.to in its three forms, type_as, cpu and cuda."""
    tensor, *rest = args
    names = ("device", "dtype", "non_blocking", "copy")
    if func is torch.Tensor.cuda:
        names, kwargs = ("device", "non_blocking"), {**kwargs, "device": GPU}
    elif func is torch.Tensor.cpu:
        names, kwargs = ("memory_format",), {**kwargs, "device": torch.device("cpu")}
    elif rest and isinstance(rest[0], torch.dtype):
        names = ("dtype", "non_blocking", "copy")
    elif rest and isinstance(rest[0], Tensor):
        names = ("other", "non_blocking", "copy")
    said = dict(zip(names, rest)) | kwargs
    origin, other, device = run.places.of(tensor), said.get("other"), said.get("device")
    place = origin if device is None else place_of(device)
    if other is not None:
        place, said["dtype"] = run.places.of(other), other.dtype
    if device is not None and asked_by_optimizer():
        place = origin
    kind = {"dtype": said.get("dtype") or tensor.dtype,
            "memory_format": said.get("memory_format") or torch.preserve_format}
    if (place == DEVICE) != (origin == DEVICE):
        return run.move(tensor, DEVICE if place == DEVICE else PAGEABLE, bool(said.get("non_blocking")), **kind)
    return tensor.to(**kind, copy=bool(said.get("copy")))


def asked_by_optimizer() -> bool:
    """True for optimizers and clip_grad_norm_: they learn a gradient's device from C++: the CPU."""
    frame = sys._getframe(1)
    while frame.f_globals.get("__name__", "").startswith("lorakit.capture"):
        frame = frame.f_back
    return frame.f_globals.get("__name__", "").startswith(("torch.optim", "torch.nn.utils.clip_grad"))


def type_(run: Run, func: Callable, args: tuple, kwargs: dict) -> object:
    """x.type(), and x.type("torch.cuda.FloatTensor")."""
    kind = kwargs.get("dtype", args[1] if len(args) > 1 else None)
    if kind is None:
        name = func(*args)
        return name.replace("torch.", "torch.cuda.") if run.places.on_device(args[0]) else name
    if not isinstance(kind, str):
        return func(*args, **kwargs)
    with run.quiet():
        dtype = torch.empty(0).type(kind.replace("torch.cuda.", "torch.")).dtype
    return to(run, func, (args[0], GPU if "cuda" in kind else torch.device("cpu"), dtype), {})


def read(run: Run, func: Callable, args: tuple, kwargs: dict) -> object:
    """Python reads the elements."""
    if run.places.on_device(args[0]) and args[0].numel():
        copies = func not in (torch.Tensor.__repr__, torch.Tensor.__format__)
        run.report(BREAKS, DOWNLOAD if copies else READ, f"Tensor.{func.__name__}(device)")
    with run.quiet():
        return func(*args, **kwargs)


def item(run: Run, func: Callable, args: tuple, kwargs: dict) -> object:
    """x[index], and x[index] = value: PyTorch makes tensors of lists on the host, of True and False
    on the device."""
    tensor, index = args[0], args[1] if isinstance(args[1], tuple) else (args[1],)
    lists = [part for part in index if isinstance(part, list) and part and not tensors(part)]
    if not run.places.on_device(tensor) or not (lists or any(isinstance(part, bool) for part in index)):
        return func(*args, **kwargs)
    if lists:
        run.report(BREAKS, INDICES, f"Tensor.{func.__name__}(device, list)")
    return alike(run, func, args, kwargs)


def alike(run: Run, func: Callable, args: tuple, kwargs: dict) -> object:
    """What makes something new in the first operand's place, whatever a CPU does for it."""
    with run.quiet():
        result = func(*args, **kwargs)
    return result if result is None else run.new(result, run.places.of(args[0]))


def only_a_cpu_looks(run: Run, func: Callable, args: tuple, kwargs: dict) -> Tensor:
    """A check of the values that PyTorch makes on a CPU only."""
    given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    counts = func is torch.nn.functional.one_hot and kwargs.get("num_classes", (*args, -1)[1]) == -1
    if counts or not all(map(run.places.on_device, given)):
        return func(*args, **kwargs)
    return alike(run, func, args, kwargs)


def with_dropout(run: Run, func: Callable, args: tuple, kwargs: dict) -> object:
    """Recurrent layers that drop out make a state for it, which waits."""
    drops = any(isinstance(value, float) and value and training for value, training in zip(args, args[1:]))
    if drops and run.places.any_on_device(args):
        run.report(BREAKS, LIBRARY, f"torch.{func.__name__}(device, with dropout)")
    return func(*args, **kwargs)


def pin(run: Run, func: Callable, args: tuple, kwargs: dict) -> Tensor:
    """Tensor.pin_memory: a copy, unless it is pinned."""
    if run.places.of(args[0]) == PINNED:
        return args[0]
    with run.quiet():
        result = args[0].clone()
    return run.new(result, PINNED)


def where_it_lies(answer: Callable[[str], object]) -> Callable:
    """An answer that follows from the place; None leaves the question to PyTorch."""
    def reply(run: Run, func: Callable, args: tuple, kwargs: dict) -> object:
        said = answer(run.places.of(args[0]))
        return func(*args, **kwargs) if said is None else said
    return reply


ANSWERS = {
    torch.Tensor.device.__get__: where_it_lies(lambda place: GPU if place == DEVICE else None),
    torch.Tensor.is_cuda.__get__: where_it_lies(lambda place: place == DEVICE),
    torch.Tensor.is_cpu.__get__: where_it_lies(lambda place: place != DEVICE),
    torch.Tensor.get_device: where_it_lies(lambda place: 0 if place == DEVICE else None),
    torch.Tensor.is_pinned: where_it_lies(lambda place: place == PINNED),
    torch.Tensor.pin_memory: pin,
    **dict.fromkeys([torch.Tensor.to, torch.Tensor.type_as, torch.Tensor.cuda, torch.Tensor.cpu], to),
    torch.Tensor.type: type_,
    **dict.fromkeys([torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor,
                     torch.scalar_tensor], data),
    **dict.fromkeys([torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__,
                     torch.Tensor.__repr__, torch.Tensor.__format__, torch.Tensor.__reduce_ex__], read),
    **dict.fromkeys([torch.Tensor.__getitem__, torch.Tensor.__setitem__], item),
    torch.Tensor.__deepcopy__: alike,
    **dict.fromkeys([torch.nn.functional.one_hot, torch.quantile, torch.Tensor.quantile,
                     torch.nanquantile, torch.Tensor.nanquantile], only_a_cpu_looks),
    **dict.fromkeys([torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu], with_dropout),
}
