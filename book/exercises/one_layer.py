"""Checkers for the exercises of *One layer, many adapters*."""

import itertools
from collections.abc import Callable

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lorakit import NO_ADAPTER, runtime
from book.exercises.common import batches


def check_break_even(break_even_rank: Callable[[int, int], int]) -> None:
    """*One layer, many adapters*: the least rank at which A and B hold as many values as W."""
    for hidden, outputs in ((4096, 4096), (4096, 14336), (14336, 4096), (48, 40), (7, 5), (1, 1)):
        found = break_even_rank(hidden, outputs)
        expected = next(r for r in itertools.count(1) if r * (hidden + outputs) >= hidden * outputs)
        assert found == expected, (
            f"{hidden} -> {outputs}: rank {found} gives {found * (hidden + outputs)} values for A "
            f"and B, W has {hidden * outputs}; the least rank that reaches W is {expected}")
    print("passed")


def check_padded_rows(padded_rows: Callable[[list[int], int], int]) -> None:
    """*One layer, many adapters*: rows of padding, counted without building the grid."""
    for slots in batches():
        groups = [[slot for slot in slots if slot == i] for i in range(4)]
        longest = max(map(len, groups))
        expected = sum(longest - len(group) for group in groups)
        found = padded_rows(list(slots), 4)
        assert found == expected, f"slots {slots}, 4 slots: {expected} rows of padding, got {found}"
    print("passed")


class Operations(TorchDispatchMode):
    """The PyTorch operations run inside `with`, views left out, and the largest tensor made."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.names.append(func.overloadpacket.__name__)
            if isinstance(out, torch.Tensor):
                self.largest = max(self.largest, out.numel())
        return out


class Asks(TorchFunctionMode):
    """The tensor methods called inside `with` that hand a value to Python."""

    METHODS = {"tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__"}

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names |= self.METHODS & {getattr(func, "__name__", "")}
        return func(*args, **(kwargs or {}))


def check_masked(masked: Callable[..., object]) -> None:
    """*One layer, many adapters*: all adapters in one product, the wrong ones masked away."""
    max_loras, rank, hidden, outputs = 4, 3, 12, 10
    device, rng = runtime.device(), torch.Generator().manual_seed(11)

    def whole(*shape: int) -> torch.Tensor:
        return torch.randint(-3, 4, shape, generator=rng).float().to(device)

    lora_a, lora_b = whole(max_loras, rank, hidden), whole(max_loras, outputs, rank)
    a_all, b_all = lora_a.flatten(0, 1), lora_b.permute(1, 0, 2).flatten(1)
    scalings = torch.tensor([1.0, 2.0, 0.5, 4.0], device=device)
    counted: list[tuple[list[int], int]] = []
    for slots in batches(max_loras):
        x, y = whole(len(slots), hidden), whole(len(slots), outputs)
        expected, before = y.clone(), y.clone()
        for token, slot in enumerate(slots):
            if slot != NO_ADAPTER:
                expected[token] += scalings[slot] * (lora_b[slot] @ (lora_a[slot] @ x[token]))
        with Operations() as ran, Asks() as asked:
            masked(x, a_all, b_all, scalings, torch.tensor(slots).to(device), y)
        assert torch.equal(expected, before) or not torch.equal(y, before), (
            f"slots {slots}: y has not changed; add into it, in place")
        for token, slot in enumerate(slots):
            assert torch.equal(y[token], expected[token]), (
                f"slots {slots}: token {token}, slot {slot}, has a wrong row")
        asks = asked.names | ({"_local_scalar_dense", "nonzero", "_unique2"} & set(ran.names))
        assert not asks, f"slots {slots}: right values, but {sorted(asks)} asks the device"
        assert len(slots) <= max_loras or ran.largest < len(slots) * rank * hidden, (
            f"slots {slots}: right values, but a tensor of {ran.largest} values holds a copy of A "
            "for each token")
        counted.append((slots, len(ran.names)))
    fewest, most = min(counted, key=lambda item: item[1]), max(counted, key=lambda item: item[1])
    assert fewest[1] == most[1], (
        f"right values, but {fewest[1]} operations for slots {fewest[0]} and {most[1]} for slots "
        f"{most[0]}: is there a loop?")
    print("passed")
