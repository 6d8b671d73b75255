"""Where the code runs: the device, the dtypes it can take, and Triton's interpreter.

Triton decides between compiling a kernel and interpreting it on the CPU at the moment
`import triton` runs, by the variable TRITON_INTERPRET. This module sets it on a machine without
a GPU, so import `lorakit` before `triton`.
"""

import os
import sys

import torch

HAS_GPU = torch.cuda.is_available()

if not HAS_GPU and "triton" not in sys.modules:
    os.environ.setdefault("TRITON_INTERPRET", "1")

INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")
"""True if Triton kernels run in the interpreter, on CPU tensors, slowly and exactly."""

KERNEL_DTYPES = (torch.float16, torch.float32) if INTERPRETED else (
    torch.float16, torch.bfloat16, torch.float32)
"""What the kernels accept. The interpreter computes bfloat16 products wrongly, so it is refused."""


def device() -> torch.device:
    """The device that this machine's chapters and tests use: the current GPU, else the CPU."""
    if HAS_GPU and not INTERPRETED:
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def describe() -> dict[str, str]:
    """The device and versions that a recorded output depends on. Does not synchronise."""
    try:
        from triton import __version__ as triton_version
    except ImportError:
        triton_version = "none"
    name = torch.cuda.get_device_name() if device().type == "cuda" else "CPU"
    return {"device": name, "torch": torch.__version__, "triton": triton_version}


def require_usable(device: torch.device, name: str) -> None:
    """Check that a kernel launched now would run where the tensors called `name` lie.

    Does not synchronise.

    Raises:
        ValueError: for a device other than the CPU or the current GPU.
        RuntimeError: for the CPU where Triton does not interpret.
    """
    if device.type == "cpu":
        if not INTERPRETED:
            raise RuntimeError(f"{name} are on the CPU, where kernels need Triton's interpreter: "
                               "import lorakit before triton, on a machine without a GPU")
    elif device.type != "cuda":
        raise ValueError(f"{name} must be on a GPU or on the CPU, got {device}")
    elif device.index != torch.cuda.current_device():
        raise ValueError(f"{name} are on {device}, and kernels launch on the current GPU, "
                         f"cuda:{torch.cuda.current_device()}: use torch.cuda.device")
