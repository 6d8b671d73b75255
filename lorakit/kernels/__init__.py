"""The Triton kernels, one file each: the kernel and the function that launches it.

`lorakit` must be imported before `triton`, see `lorakit.runtime`.
"""
