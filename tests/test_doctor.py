"""lorakit/doctor.py: each row tells what is wrong and what to do, and no check stops the others."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lorakit import doctor, runtime

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("row, status", [
    (doctor.check_python((3, 10, 9)), "FAIL"), (doctor.check_python((3, 11, 0)), "ok"),
    (doctor.check_python((3, 13, 9)), "ok"), (doctor.check_python((3, 14, 0)), "FAIL"),
    (doctor.check_torch("2.10.2"), "FAIL"), (doctor.check_torch("2.11.0+cu130"), "ok"),
    (doctor.check_torch("2.14.1"), "ok"), (doctor.check_torch("2.15.0"), "FAIL"),
    (doctor.check_triton("3.6.0", "2.11.0"), "ok"), (doctor.check_triton("3.7.1", "2.13.0+cpu"), "ok"),
    (doctor.check_triton("3.7.1", "2.11.0"), "warn"), (doctor.check_triton("", "2.13.0"), "FAIL"),
    (doctor.check_driver("470.57", "13.0", usable=False), "warn"),
    (doctor.check_driver("580.1", None, usable=False), "warn"),
    (doctor.check_driver("580.1", "13.0", usable=True), "ok"),
    (doctor.check_driver("", "13.0", usable=False), "skip"),
    (doctor.check_memory(3 * 2**30, others=0), "warn"), (doctor.check_memory(5 * 2**30, others=0), "ok"),
    (doctor.check_memory(5 * 2**30, others=1), "warn"),
    (doctor.check_disk(2**20), "warn"), (doctor.check_disk(2**40), "ok"),
])
def test_status(row, status):
    assert row.status == status
    assert row.todo or status in ("ok", "skip")


def test_a_driver_too_old_names_both_versions():
    row = doctor.check_driver("470.57", "13.0", usable=False)
    assert "470.57" in row.found and "CUDA 13.0" in row.found and "update the driver" in row.todo
    row = doctor.check_driver("580.1", None, usable=False)
    assert "built for the CPU" in row.found and "PY=" in row.todo


@pytest.mark.parametrize("interpreted, status", [(True, "FAIL"), (False, "ok")])
def test_numpy_that_the_old_interpreter_cannot_take(monkeypatch, interpreted, status):
    monkeypatch.setattr(runtime, "INTERPRETED", interpreted)
    assert doctor.check_numpy("2.4.0", "3.6.0").status == status
    assert doctor.check_numpy("2.3.5", "3.6.0").status == doctor.check_numpy("2.4.0", "3.7.1").status == "ok"


def test_a_check_that_raises_is_a_fail_row_of_one_line(capsys):
    def broken():
        raise RuntimeError("first line\nsecond line")
    assert doctor.main(checks={"broken": broken, "disk": doctor.check_disk}) == 1
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 2 and rows[0].startswith("FAIL  broken    RuntimeError: first line -> ")


@pytest.mark.parametrize("status, code", [("ok", 0), ("skip", 0), ("warn", 0), ("FAIL", 1)])
def test_exit_status_and_advice(capsys, status, code):
    assert doctor.main(checks={"one": lambda: doctor.Row(status, "found", "advice")}) == code
    assert ("-> advice" in capsys.readouterr().out) == (status in ("warn", "FAIL"))


def test_gpu_checks_are_skipped_without_one(monkeypatch):
    monkeypatch.setattr(runtime, "HAS_GPU", False)
    for name in doctor.NEED_GPU:
        assert doctor.attempt(name, doctor.CHECKS[name]).status == "skip"


def test_the_kernel_check_runs_a_kernel(monkeypatch):
    pytest.importorskip("triton")
    assert doctor.check_kernel().status == "ok"

    class Wrong:  # stands for a compiler that stores nothing
        def __getitem__(self, grid):
            return lambda *args, **kwargs: None
    monkeypatch.setattr(doctor, "_add", Wrong())
    assert doctor.check_kernel().status == "FAIL"


def test_no_jupyter_kernel(monkeypatch):
    from jupyter_client.kernelspec import KernelSpecManager
    assert doctor.check_jupyter().status == "ok"
    monkeypatch.setattr(KernelSpecManager, "find_kernel_specs", lambda self: {"other": "/there"})
    assert doctor.check_jupyter().status == "FAIL"


def test_without_triton_only_linux_fails():
    assert doctor.check_triton("", "2.13.0", "linux").status == "FAIL"
    assert doctor.check_triton("", "2.13.0", "darwin").status == "warn"


@pytest.mark.kernels
def test_every_row_on_this_machine():
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run([sys.executable, "-m", "lorakit.doctor"], cwd=ROOT, capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": paths})
    rows = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(re.match(r"(ok|warn|FAIL|skip) +\w+ +\S", row) for row in rows)
    assert [row.split()[1] for row in rows] == list(doctor.CHECKS)


def test_its_pairs_are_those_of_the_set_up_tool():
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "tools" / "bootstrap.py")
    bootstrap = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bootstrap)
    pairs = {doctor.series(torch): doctor.series(triton) for torch, triton in bootstrap.TRITON_FOR.items()}
    assert {torch: doctor.TRITON_FOR[torch] for torch in pairs} == pairs
    assert set(doctor.TRITON_FOR) == set(pairs)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["driver", "gpu", "kernel", "graph", "profiler"])
def test_on_a_gpu(name):
    assert doctor.attempt(name, doctor.CHECKS[name]).status == "ok"
