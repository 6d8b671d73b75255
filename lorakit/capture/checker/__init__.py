"""lint: what a CUDA graph would refuse or freeze, found on a CPU.

Read `run`, `operations` and `waits` first: they find `x[0] = 0`. Chapter *Catch it before the GPU
does* derives them.
"""

from lorakit.capture.checker.findings import Finding, LintReport
from lorakit.capture.checker.lint import assert_lint_clean, lint
from lorakit.capture.checker.places import Host

__all__ = ["Finding", "Host", "LintReport", "assert_lint_clean", "lint"]
