"""The Triton kernels, one file each: the kernel and the function that launches it."""

from lorakit import runtime  # before triton, see runtime
from lorakit.kernels.expand import expand
from lorakit.kernels.shrink import shrink

__all__ = ["expand", "shrink"]
