"""The Triton kernels, one file each: the kernel and the function that launches it. `find` and `sums`
are parts of several kernels, `tiles` has the sizes, and `workspace` the memory between kernels.

`lorakit` must be imported before `triton`, see `lorakit.runtime`.
"""
