"""pytest for the whole repository: what is skipped here and why, and stricter notebook cells.

A test marked `gpu` or `kernels`, or a notebook cell with that tag, is skipped on a machine that
cannot run it; the end of the run says how many and why. The hooks on notebook cells add to nbval
what it does not check by itself.
"""

import importlib.util
import os
import time
from collections import Counter
from pathlib import Path
from queue import Empty

import nbval.kernel
import pytest
import torch

HAS_GPU = torch.cuda.is_available()
HAS_TRITON = importlib.util.find_spec("triton") is not None
NEEDS = {  # mark or cell tag -> (this machine has it, why it is skipped without)
    "gpu": (HAS_GPU, "needs a CUDA GPU"),
    "kernels": (HAS_TRITON, "Triton is published for Linux only"),
}
CELL_TIMEOUT_S = 300
NBVAL_TIMEOUT_S = 2000  # nbval's own default, far too long for a chapter


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs a CUDA GPU")
    config.addinivalue_line("markers", "kernels: needs Triton, compiled or interpreted")
    option = config.option
    if getattr(option, "nbval_cell_timeout", None) == NBVAL_TIMEOUT_S:
        option.nbval_cell_timeout = CELL_TIMEOUT_S
    if not getattr(option, "nbval_kernel_name", None):
        option.nbval_current_env = True  # the kernel of this environment, whatever a notebook names
    nbval.kernel.start_new_kernel = start_patiently
    # a kernel starts in its notebook's folder: it finds lorakit from there too
    paths = [str(Path(__file__).resolve().parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, paths)))


def start_patiently(*args, start=nbval.kernel.start_new_kernel, **kwargs):
    """Starts a kernel for nbval. Kernels that start at once may choose one port: try again."""
    for _ in range(2):
        try:
            return start(*args, **kwargs)
        except RuntimeError:  # it died before it replied
            pass
    return start(*args, **kwargs)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """`-n auto` means one process on a GPU: a timing test shares the device with no other."""
    return 0 if HAS_GPU else None


def pytest_collection_modifyitems(items):
    """Skips what this machine cannot run."""
    for item in items:
        cell_tags = item.cell.metadata.get("tags", []) if is_cell(item) else []
        for need, (present, reason) in NEEDS.items():
            if not present and (need in cell_tags or item.get_closest_marker(need)):
                item.add_marker(pytest.mark.skip(reason=reason))


def is_cell(item) -> bool:
    """True for a notebook cell that nbval collected."""
    return type(item).__name__ == "IPyNbCell"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """After a timeout the kernel's state is unknown. nbval expects the next cells to fail; say so."""
    if is_cell(item) and item.parent.timed_out:
        pytest.fail("a cell above timed out", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Around one notebook cell: a strict cell was recorded, a failing cell fails as it says."""
    if not is_cell(item):
        return (yield)
    if item.options["check"] and item.cell.execution_count is None:
        item.raise_cell_error("a strict cell that was never executed has no output to compare")
    notice_death(item.parent.kernel)
    result = yield
    problem = wrong_exception(item.cell, item.test_outputs)
    if problem:
        item.raise_cell_error(problem)
    return result


def wrong_exception(cell, outputs) -> str | None:
    """How `outputs` differ from the failure that the cell's metadata announces, or None."""
    if "raises-exception" not in cell.metadata.get("tags", []):
        return None
    name, match = cell.metadata.get("raises"), cell.metadata.get("raises_match", "")
    errors = [output for output in outputs if output.output_type == "error"]
    if not name:
        return "tagged raises-exception, but metadata `raises` does not name the exception"
    if not errors:
        return f"expected {name}, raised nothing"
    error = errors[-1]
    if error.ename != name:
        return f"expected {name}, raised {error.ename}: {error.evalue}"
    if match not in error.evalue:
        return f"expected {name} to say {match!r}, it said {error.evalue!r}"
    return None


def notice_death(kernel):
    """Makes nbval look once a second whether the kernel lives, instead of waiting out the timeout."""
    if getattr(kernel, "notices_death", False):
        return
    wait_for_reply = kernel.await_reply

    def await_reply(msg_id, timeout=None):
        deadline = time.monotonic() + (CELL_TIMEOUT_S if timeout is None else timeout)
        while True:
            try:
                return wait_for_reply(msg_id, timeout=min(1, timeout or 1))
            except Empty:
                if not kernel.is_alive():
                    raise RuntimeError("the kernel died in this cell") from None
                if time.monotonic() > deadline:
                    raise

    kernel.await_reply, kernel.notices_death = await_reply, True


def pytest_terminal_summary(terminalreporter):
    """What did not run, and why: by reason and file, also with xdist."""
    counts = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        file = report.nodeid.split("::")[0]
        counts[reason.removeprefix("Skipped: "), file] += 1
    if not counts:
        return
    terminalreporter.section("skipped")
    for (reason, file), count in sorted(counts.items()):
        noun = "cell" if file.endswith(".ipynb") else "test"
        terminalreporter.line(f"skipped {count} {noun}{'s' * (count > 1)} of {file}: {reason}")
