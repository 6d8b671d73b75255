"""The Triton kernels, one file each: the kernel and the function that launches it. `find` and `sums`
are parts of several kernels, `tiles` has the sizes.

`lorakit` must be imported before `triton`, see `lorakit.runtime`.
"""
