"""Inputs and outputs of any shape: tensors and values in tuples, lists, dicts and dataclasses."""

import dataclasses
from collections.abc import Callable

import torch


def leaves(tree: object, name: str) -> list[tuple[str, object]]:
    """(name, leaf) of everything in a tree, in order: ("input 1.seg_lens", tensor)."""
    if isinstance(tree, dict):
        parts = [(f"{name}[{key!r}]", part) for key, part in tree.items()]
    elif isinstance(tree, tuple | list):
        between, after = ("[", "]") if " " in name else (" ", "")
        parts = [(f"{name}{between}{i}{after}", part) for i, part in enumerate(tree)]
    elif dataclasses.is_dataclass(tree):
        parts = [(f"{name}.{field.name}", getattr(tree, field.name))
                 for field in dataclasses.fields(tree)]
    else:
        return [(name, tree)]
    return [leaf for part_name, part in parts for leaf in leaves(part, part_name)]


def pairs(left: object, right: object, name: str = "input") -> list[tuple[str, object, object]]:
    """(name, leaf, the other tree's leaf there) of everything in two trees of one structure."""
    return [(where, ours, theirs) for (where, ours), (_, theirs)
            in zip(leaves(left, name), leaves(right, name))]


def mapped(fn: Callable[..., object], tree: object, *others: object) -> object:
    """The tree with fn(leaf, the others' leaves there) in each leaf's place."""
    if isinstance(tree, dict):
        return {key: mapped(fn, part, *(other[key] for other in others)) for key, part in tree.items()}
    if isinstance(tree, tuple | list):
        make = getattr(tree, "_make", type(tree))  # a named tuple's own
        return make(mapped(fn, *parts) for parts in zip(tree, *others))
    if dataclasses.is_dataclass(tree):
        return dataclasses.replace(tree, **{
            field.name: mapped(fn, *(getattr(part, field.name) for part in (tree, *others)))
            for field in dataclasses.fields(tree)})
    return fn(tree, *others)


def copied(tree: object) -> object:
    """The tree with a copy of each tensor. Does not synchronise."""
    return mapped(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, tree)


def cut(tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """A view of the first elements along each axis. Does not synchronise."""
    return tensor[tuple(slice(size) for size in shape)]


def describe(value: object) -> str:
    """What a value is, for an error's text."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} on {value.device}"
    return f"a Python {type(value).__name__}"
