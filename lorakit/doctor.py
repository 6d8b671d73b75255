"""The pre-flight check of a machine: `make doctor`, or `python -m lorakit.doctor [check ...]`.

One row a check: ok, warn, FAIL or skip, what was found and, if that is not ok, what to do.
The exit status is 1 if a row says FAIL. The checks kernel, graph and profiler synchronise.
"""

import glob
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata

import torch

from lorakit import runtime

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

GIB = 2**30
TRITON = getattr(triton, "__version__", "")
TRITON_FOR = {(2, 11): (3, 6), (2, 12): (3, 7), (2, 13): (3, 7), (2, 14): (3, 8)}


@dataclass(frozen=True)
class Row:
    """What a check found. `status` is ok, warn, FAIL or skip; `todo` is what to do about it."""
    status: str
    found: str
    todo: str = ""


def series(version: str) -> tuple[int, ...]:
    """The first two numbers of a version: (2, 13) for "2.13.0+cpu"."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def visible_driver() -> str:
    """The NVIDIA driver whose GPU this machine shows, or nothing. Needs no working CUDA."""
    if not glob.glob("/dev/nvidia[0-9]*"):
        return ""
    with open("/proc/driver/nvidia/version") as file:
        return re.search(r"\s(\d{3}\.[\d.]+)\s", file.read())[1]


def check_python(version=sys.version_info[:3]) -> Row:
    good = (3, 11) <= version[:2] <= (3, 13)
    return Row("ok" if good else "FAIL", ".".join(map(str, version)), "use Python 3.11, 3.12 or 3.13")


def check_torch(version=torch.__version__) -> Row:
    good = (2, 11) <= series(version) < (2, 15)
    return Row("ok" if good else "FAIL", version, "use torch from 2.11 up to, not including, 2.15")


def check_triton(version=TRITON, torch_version=torch.__version__, platform=sys.platform) -> Row:
    if not version and platform != "linux":
        return Row("warn", "not installed", "published for Linux only: what needs kernels is skipped")
    pair = TRITON_FOR.get(series(torch_version))
    status = "FAIL" if not version else "ok" if series(version) == pair else "warn"
    wanted = "triton==%d.%d.*" % pair if pair else "triton"
    return Row(status, version or "not installed",
               f"pip install '{wanted}', which torch {torch_version} pairs with (Linux only)")


def check_numpy(version=metadata.version("numpy"), triton_version=TRITON) -> Row:
    broken = runtime.INTERPRETED and series(version) >= (2, 4) and series(triton_version) == (3, 6)
    return Row("FAIL" if broken else "ok", version,
               "Triton 3.6 cannot interpret kernels with it: pip install 'numpy<2.4'")


def check_driver(driver=None, cuda=torch.version.cuda, usable=runtime.HAS_GPU) -> Row:
    """Whether torch can use the GPU that the driver shows."""
    driver = visible_driver() if driver is None else driver
    if usable:
        return Row("ok", f"{driver}, used through CUDA {cuda}")
    if not driver or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return Row("skip", "no NVIDIA GPU to be seen")
    if cuda is None:
        return Row("warn", f"{driver}, but this torch is built for the CPU",
                   "name a Python with a CUDA build of torch: PY=/path/to/python")
    return Row("warn", f"{driver} does not run this torch, built for CUDA {cuda}",
               "update the driver, or name a Python whose torch fits it: PY=/path/to/python")


def check_gpu() -> Row:
    if not runtime.HAS_GPU:
        return Row("warn", "no GPU", "reading and CPU cells work, gpu cells are skipped")
    major, minor = torch.cuda.get_device_capability()
    return Row("ok" if major >= 8 else "warn",
               f"{torch.cuda.get_device_name()}, compute capability {major}.{minor}",
               "the book is for 8.0 and newer")


def check_memory(free=None, others=None) -> Row:
    """Free GPU memory, and other processes that nvidia-smi shows. A container shows few of them."""
    free = torch.cuda.mem_get_info()[0] if free is None else free
    if others is None:
        query = ["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"]
        said = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout \
            if shutil.which("nvidia-smi") else ""
        others = len(set(said.split()) - {str(os.getpid())})
    return Row("ok" if free >= 4 * GIB and not others else "warn",
               f"{free / GIB:.1f} GiB free, {others} other processes",
               "the book uses up to 4 GiB, and others disturb its timings: stop what uses the GPU")


if triton:
    @triton.jit
    def _add(x, y, out, n, BLOCK: tl.constexpr):
        i = tl.arange(0, BLOCK)
        tl.store(out + i, tl.load(x + i, i < n) + tl.load(y + i, i < n), i < n)


def check_kernel() -> Row:
    """Run a Triton kernel and compare its sums: compiled on a GPU, else interpreted. Synchronises."""
    if not triton:
        return Row("skip", "needs Triton")
    x = torch.arange(100, dtype=torch.float32, device=runtime.device())
    out = torch.zeros_like(x)
    _add[(1,)](x, 2 * x, out, 100, BLOCK=128)
    how = "interpreted" if runtime.INTERPRETED else "compiled"
    return Row("ok" if torch.equal(out, 3 * x) else "FAIL", f"a vector add, {how}",
               "its sums are wrong: reinstall triton")


def check_graph() -> Row:
    """Capture an add in a CUDA graph and replay it with another value. Synchronises."""
    x, graph = torch.ones(4, device="cuda"), torch.cuda.CUDAGraph()
    y = x + 1  # load the kernel before the capture
    with torch.cuda.graph(graph):
        y = x + 1
    x.fill_(41)
    graph.replay()
    return Row("ok" if y.tolist() == [42] * 4 else "FAIL", f"a captured add gave {y[0].item():g}",
               "it should give 42: update the driver")


def check_profiler() -> Row:
    """Whether the profiler records what ran on the GPU. Synchronises."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA],
                                acc_events=True) as profile:
        torch.ones(1000, device="cuda").add_(1)
        torch.cuda.synchronize()
    seen = sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())
    return Row("ok" if seen else "warn", f"{seen} CUDA events",
               "timelines will be empty: stop other profilers; a container may need CAP_SYS_ADMIN")


def check_jupyter() -> Row:
    from jupyter_client.kernelspec import KernelSpecManager
    return Row("ok" if "python3" in KernelSpecManager().find_kernel_specs() else "FAIL",
               "kernel python3", "not found: python -m ipykernel install --sys-prefix")


def check_disk(free=None) -> Row:
    free = shutil.disk_usage(".").free if free is None else free
    return Row("ok" if free >= GIB else "warn", f"{free / GIB:.1f} GiB free", "free 1 GiB for the book")


CHECKS = {name[6:]: check for name, check in list(globals().items()) if name.startswith("check_")}
NEED_GPU = ("memory", "graph", "profiler")


def attempt(name: str, check) -> Row:
    """The row of a check. One that raises gives a FAIL with the first line of its error."""
    if name in NEED_GPU and not runtime.HAS_GPU:
        return Row("skip", "needs a GPU")
    try:
        return check()
    except Exception as error:
        line = (str(error).strip().splitlines() or ["no message"])[0]
        return Row("FAIL", f"{type(error).__name__}: {line}", "repair what this error names")


def main(names=(), checks=CHECKS) -> int:
    """Print a row for each named check, or for all. 1 if one failed, else 0."""
    rows = {name: attempt(name, checks[name]) for name in names or checks}
    for name, row in rows.items():
        todo = f" -> {row.todo}" if row.status in ("warn", "FAIL") else ""
        print(f"{row.status:<5} {name:<9} {row.found}{todo}")
    return int(any(row.status == "FAIL" for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
