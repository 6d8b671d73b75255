"""What two graphs of one function froze differently: the rule behind a wrong replay."""

import torch

from lorakit.capture.driver import Node

FROZEN = {  # the first of these that is found names the rule
    "S4": "a branch or a loop is frozen",
    "S3": "a grid is frozen",
    "S15": "a kernel's specialisation is frozen",
    "S1": "an address is frozen",
    "S2": "a scalar is frozen",
}


def frozen(before: list[Node], again: list[Node], now: list[Node]) -> tuple[str, str]:
    """The rule, and a sentence that says what is frozen and in which node.

    Args:
        before: the nodes of a graph of one batch.
        again: those of a second graph of that batch: a scalar that differs between the two is noise.
        now: those of a graph of another batch.

    Does not synchronise.
    """
    if [(node.kind, node.name) for node in before] != [(node.kind, node.name) for node in now]:
        return "S4", f"{FROZEN['S4']}: {len(before)} nodes at capture, {len(now)} now, or other ones"
    found: dict[str, str] = {}
    for place, (was, twin, node) in enumerate(zip(before, again, now)):
        where = f"node {place}, {node.name[:60]}"
        if was.grid != node.grid:
            found.setdefault("S3", f"{where}: {was.grid[:3]} programs at capture, {node.grid[:3]} now")
        if was.variant != node.variant:
            found.setdefault("S15", where)
        for old, same, new in zip(was.words(), twin.words(), node.words()):
            if old != new and (outside_of_graphs(old) or outside_of_graphs(new)):
                found.setdefault("S1", f"{where}: it reads or writes other memory now")
            elif old != new and old == same:
                found.setdefault("S2", f"{where}: an argument was {old:#x} at capture, is {new:#x} now")
    for rule, meaning in FROZEN.items():
        if rule in found:
            return rule, f"{meaning}: {found[rule]}"
    return "S1 to S5", "something is frozen that the graphs' nodes do not show"


def outside_of_graphs(address: int) -> bool:
    """True for an address in PyTorch's memory that is in no graph's private pool."""
    return pool_of(address) == (0, 0)


def pool_of(address: int) -> tuple[int, int] | None:
    """The memory pool that an address lies in, (0, 0) for the common one, None if PyTorch has it not."""
    return next((tuple(segment["segment_pool_id"]) for segment in torch.cuda.memory_snapshot()
                 if segment["address"] <= address < segment["address"] + segment["total_size"]), None)
