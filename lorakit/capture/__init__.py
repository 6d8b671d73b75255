"""What may be captured in a CUDA graph, and what a graph has frozen: tools that try it and say.

Chapters *The loud rules* and *The silent rules* derive what they look for.
"""

from lorakit.capture.attempt import Attempt, attempt
from lorakit.capture.checker import Finding, Host, LintReport, assert_lint_clean, lint
from lorakit.capture.probe import Report, probe
from lorakit.capture.safe import assert_graph_safe

__all__ = ["Attempt", "Finding", "Host", "LintReport", "Report", "assert_graph_safe",
           "assert_lint_clean", "attempt", "lint", "probe"]
