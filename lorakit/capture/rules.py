"""The rule behind an error of a capture: what its text says, and which operation raised it.

The numbers are the book's; its appendix has one line for each.
"""

import traceback

EARLIER = "L11 or L15"
RULES = (  # what an error says -> the rule; the first that fits
    ("Cannot copy between CPU and CUDA tensors", "L3"),
    ("non-default stream", "L4"),
    ("legacy stream depend", "L5"),
    ("unjoined work", "L6"),
    ("dependency created on uncaptured work", "L7"),
    ("event last recorded in a capturing stream", "L8"),
    ("merge of separate capture", "L9"),
    ("end on the same stream", "L10"),
    ("capture sequence from another thread", "L10"),
    ("previous error during capture", EARLIER),  # the first error: it came from elsewhere
    ("CUDA generator not in capture mode", "L18"),
    ("Offset increment outside graph capture", "L18"),
    ("set_current_seed", "L18"), ("construct a new CUDAGeneratorImpl", "L18"),
    ("CUBLAS", "L16"), ("cuDNN error", "L16"), ("cuFFT error", "L16"), ("cusolver error", "L16"),
    ("NCCL error", "L17"),
)
COPIES = ("copy", "lift", "pin_memory")
UNCLEAR = "L1, L2 or L3"  # CUDA says no more than "not permitted"


def rule_of(error: Exception) -> str | None:
    """The rule that the error of a capture names, UNCLEAR, or None if it is no error of CUDA's."""
    text = str(error)
    for said, rule in RULES:
        if said in text:
            return rule
    if "not permitted" not in text:
        return None
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    if any(file.endswith("autotuner.py") for file in files):
        return "L14"
    return "L13" if "Triton Error" in text else UNCLEAR  # its loader: a cold kernel


def rule_of_operation(operation: str | None) -> str:
    """The rule by the PyTorch operation that CUDA did not permit, None if it was no operation."""
    if operation is None:
        return "L1"  # a call by hand: synchronize, query
    return "L3" if any(word in operation for word in COPIES) else "L2"
