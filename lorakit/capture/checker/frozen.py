"""What two batches have in common is what one graph can replay. The rest would be frozen."""

from collections.abc import Iterator
from difflib import SequenceMatcher

from lorakit.capture.checker.findings import FROZEN
from lorakit.capture.checker.run import Launch, Run
from lorakit.capture.checker.waits import Cause

SHAPE = "the largest shape or grid, and early exits or masks for the rest"
VALUE = "a tensor of one element, which the kernel reads"
ADDRESS = "one static buffer, and copy_ into it"
BRANCH = "a graph for each branch, or a flag on the device: torch.where"


def compare(first: Run, second: Run) -> None:
    """Report in the first run each launch that the second did otherwise, or not at all."""
    ours, theirs = first.launches, second.launches
    keys = [[(launch.op, launch.line) for launch in launches] for launches in (ours, theirs)]
    pieces = [("equal", 0, len(ours), 0, len(theirs))]
    if keys[0] != keys[1]:
        pieces = SequenceMatcher(None, *keys, autojunk=False).get_opcodes()
    for tag, i, i_end, j, j_end in pieces:
        if tag == "equal":
            for one, two in zip(ours[i:i_end], theirs[j:j_end]):
                for rule, why, fix in differences(one, two):
                    first.report(FROZEN, Cause(rule, why, fix), one.op, one.line or two.line)
            continue
        for launches, batch in ((ours[i:i_end], "first"), (theirs[j:j_end], "second")):
            for launch in launches:
                why = f"only the {batch} batch launches it here: a branch or a loop of Python's"
                first.report(FROZEN, Cause("S4", why, BRANCH), launch.op, launch.line)


def differences(one: Launch, two: Launch) -> Iterator[tuple[str, str, str]]:
    """(rule, why, fix) of each way in which a launch differs between two batches."""
    shapes = [[memory[2:4] for memory in launch.memory] for launch in (one, two)]
    if shapes[0] != shapes[1]:
        yield "S3", " and ".join(f"shapes {' '.join(str(shape[0]) for shape in there if shape)}"
                                 for there in shapes), SHAPE
    elif [memory[1] for memory in one.memory] != [memory[1] for memory in two.memory]:
        yield "S3", "other dtypes", "one dtype for every batch"
    elif [memory[4:] for memory in one.memory] != [memory[4:] for memory in two.memory]:
        yield "S2", "reads or writes at another offset", VALUE
    for name in one.scalars.keys() | two.scalars.keys():
        was, now = one.scalars.get(name), two.scalars.get(name)
        if repr(was) == repr(now) or (shapes[0] != shapes[1] and name != "grid"):
            continue
        if name == "grid":
            yield "S3", f"grid {was} and {now}", SHAPE
        else:
            yield "S2", f"{name} is {was} and {now}", VALUE
    for ours, theirs in zip(one.memory, two.memory):
        names = ours[0], theirs[0]
        if names[0] != names[1] and not all(name.startswith("temporary") for name in names):
            yield "S1", "uses other memory: a tensor was put under an old name", ADDRESS
