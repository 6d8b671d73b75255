"""The inputs of a step under test: the static ones of a graph, and batches that must fit them."""

import torch
from torch import Tensor

from lorakit.capture.trees import describe, leaves, mapped, pairs


def pointers(tree: object) -> dict[str, int]:
    """The address of each tensor, by its name."""
    return {name: leaf.data_ptr() for name, leaf in leaves(tree, "input") if isinstance(leaf, Tensor)}


def with_values(static: tuple, batch: tuple) -> tuple:
    """The static tensors with the batch's Python values."""
    return mapped(lambda buffer, value: buffer if isinstance(buffer, Tensor) else value, static, batch)


@torch.no_grad()
def copy_rows(static: tuple, batch: tuple) -> None:
    """Write each tensor of the batch into the first rows of its buffer, and nothing else."""
    for _, buffer, value in pairs(static, batch):
        if isinstance(buffer, Tensor):
            buffer[:len(value)].copy_(value) if value.dim() else buffer.copy_(value)


def fits(static: tuple, batch: tuple, i: int) -> None:
    """Check that a batch fits what was captured. Raises TypeError or ValueError, naming the input."""
    ours, theirs = leaves(static, "input"), leaves(batch, "input")
    if [name for name, _ in ours] != [name for name, _ in theirs]:
        raise ValueError(f"batch {i} has other inputs than batch 0: {len(theirs)}, not {len(ours)}")
    for name, buffer, value in pairs(static, batch):
        if not isinstance(buffer, Tensor):
            continue
        if describe(value) != describe(buffer):
            raise TypeError(f"batch {i}: {name} must be {describe(buffer)}, got {describe(value)}")
        if value.shape[1:] != buffer.shape[1:] or value.dim() != buffer.dim() or (
                value.shape[:1] > buffer.shape[:1]):
            raise ValueError(f"batch {i}: {name} has shape {tuple(value.shape)}, captured with "
                             f"{tuple(buffer.shape)}: batch 0 must be the largest")


def same_inputs(batch: tuple, again: tuple, i: int) -> None:
    """Check that make_inputs gives the same batch twice. Synchronises. Raises ValueError."""
    for name, value, twice in pairs(batch, again):
        if isinstance(value, Tensor) and not (
                describe(value) == describe(twice) and value.shape == twice.shape
                and torch.allclose(value, twice, 0, 0, equal_nan=True)):
            raise ValueError(f"make_inputs({i}) gave two different batches ({name}): seed it by the "
                             "batch's number")
