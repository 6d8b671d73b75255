"""tools/bootstrap.py: every way in which the set-up can fail ends in one line and status 1."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / "tools" / "bootstrap.py"

spec = importlib.util.spec_from_file_location("bootstrap", TOOL)
bootstrap = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bootstrap)


def stub(path: Path, script: str) -> str:
    """An executable shell script that plays the part of a Python."""
    path.write_text("#!/bin/sh\n" + script + "\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def root(tmp_path):
    """A folder that looks like a fresh clone to the tool, with one tiny requirement."""
    (tmp_path / "requirements.txt").write_text('torch==2.13.0\ntriton==3.7.1 ; sys_platform == "linux"\n')
    (tmp_path / "pyproject.toml").write_text("")
    return tmp_path


@pytest.fixture
def says(capsys, root):
    """Run the tool in this process; check that it failed in one line; return the line."""
    def call(*arguments: str) -> str:
        assert bootstrap.main(["--root", str(root), *arguments]) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("setup: ")
        return lines[0]
    return call


@pytest.fixture
def fake_venv(monkeypatch, root):
    """`.venv` without its seconds: making one makes bin/python, installing does what it is told."""
    def create(command):
        (root / ".venv" / "bin").mkdir()
        (root / ".venv" / "bin" / "python").touch()
        (root / ".venv" / "pyvenv.cfg").write_text("version = 3.11.7")
        return 0, ""
    monkeypatch.setattr(bootstrap, "find_python", lambda paths: sys.executable)
    monkeypatch.setattr(bootstrap, "run", create)
    monkeypatch.setattr(bootstrap.glob, "glob", lambda pattern: [])  # no GPU to warn of
    installed = []
    monkeypatch.setattr(bootstrap, "install", lambda *args: installed.append(args[-1]))
    return installed


# ---- what stops it ---------------------------------------------------------------------------

def test_an_old_python_can_read_the_tool():
    ast.parse(TOOL.read_text(), feature_version=(3, 6))


def test_no_python_in_range(monkeypatch, says, tmp_path):
    old = stub(tmp_path / "python3.11", "echo python 3.9")
    broken = stub(tmp_path / "python3.12", "echo 'python3.12: command not found'; exit 127")
    monkeypatch.setattr(bootstrap, "candidates", lambda: [old, broken, "/nowhere/python3"])
    assert "no Python 3.11 to 3.13 found" in says()
    assert not (tmp_path / ".venv").exists()


def test_another_python_on_path_is_found(monkeypatch, tmp_path):
    good = stub(tmp_path / "python3.12", "echo python 3.12")
    monkeypatch.setattr(sys, "executable", stub(tmp_path / "python3", "echo python 3.14"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bootstrap.find_python(bootstrap.candidates()) == good


def test_no_venv_module(monkeypatch, says, tmp_path):
    python = stub(tmp_path / "python3", "echo python 3.12; echo No module named ensurepip; exit 1")
    monkeypatch.setattr(bootstrap, "candidates", lambda: [python])
    assert "apt install python3.12-venv" in says()


def test_no_disk_space(monkeypatch, says):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9e9, 8e9, 1e9))
    assert "1.0 GB free, 4 GB needed" in says()


def test_read_only_folder(monkeypatch, says, fake_venv):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)
    monkeypatch.setattr(os, "mkdir", refuse)
    assert re.search(r"cannot write \S+\.venv \(Permission denied\)", says())


@pytest.mark.skipif(not importlib.util.find_spec("ensurepip"), reason="this Python cannot make a venv")
def test_unreachable_index(root, tmp_path):
    """From end to end, with a real venv and pip. Port 9 of this machine answers nobody."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    env.update(PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_CONFIG_FILE=os.devnull)
    done = subprocess.run([sys.executable, TOOL, "--root", root], env=env, cwd=root,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    assert re.fullmatch(r"setup: the package index cannot be reached; .*"
                        r"\(log: \.venv/bootstrap\.log\)\.\n", done.stderr)
    assert "NewConnectionError" in (root / ".venv" / "bootstrap.log").read_text()
    assert (root / ".venv" / "stamp").read_text() == "unfinished"


@pytest.mark.parametrize("output, line", [
    ("ERROR: No matching distribution found for nothing==1", "No matching distribution found for nothing==1;"),
    ("ERROR: [Errno 28] No space left on device", "the disk filled up"),
    ("WARNING: Retrying (Retry(total=0))", "the package index cannot be reached"),
    ("Segmentation fault", "Segmentation fault"),
    ("", "no reason given"),
])
def test_pip_fails(tmp_path, output, line):
    python = stub(tmp_path / "python", f"echo 'Collecting torch'; echo '{output}'; exit 1" if output else "exit 1")
    with pytest.raises(bootstrap.Stop) as stop:
        bootstrap.pip(python, str(tmp_path / "bootstrap.log"), ["-r", "requirements.txt"])
    assert line in str(stop.value) and "\n" not in str(stop.value)
    assert "bootstrap.log" in str(stop.value)


def test_a_venv_of_somebody_else_is_left_alone(says, root):
    (root / ".venv").mkdir()
    (root / ".venv" / "theirs").touch()
    assert "not made by this tool" in says()
    assert (root / ".venv" / "theirs").exists()


# ---- what it trusts --------------------------------------------------------------------------

def test_a_finished_venv_is_not_touched_again(root, fake_venv):
    for _ in range(2):
        assert bootstrap.main(["--root", str(root)]) == 0
    assert len(fake_venv) == 1


@pytest.mark.parametrize("changed", ["requirements.txt", "pyproject.toml"])
def test_changed_pins_are_installed_into_the_same_venv(root, fake_venv, changed):
    bootstrap.main(["--root", str(root)])
    (root / ".venv" / "kept").touch()
    with open(root / changed, "a") as file:
        file.write("# changed\n")
    bootstrap.main(["--root", str(root)])
    assert len(fake_venv) == 2 and (root / ".venv" / "kept").exists()


def test_a_half_made_venv_is_made_again(monkeypatch, root, fake_venv, capsys):
    def interrupted(*args):
        (root / ".venv" / "half a package").touch()
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "install", interrupted)
        assert bootstrap.main(["--root", str(root)]) == 130
    assert bootstrap.main(["--root", str(root)]) == 0
    assert not (root / ".venv" / "half a package").exists() and len(fake_venv) == 1


def test_a_venv_whose_python_is_gone_is_made_again(root, fake_venv):
    bootstrap.main(["--root", str(root)])
    (root / ".venv" / "bin" / "python").unlink()
    assert bootstrap.main(["--root", str(root)]) == 0
    assert len(fake_venv) == 2


# ---- TORCH= and PY= --------------------------------------------------------------------------

@pytest.mark.parametrize("torch", ["2.15.0", "2.10.0", "nightly"])
def test_torch_out_of_range(says, torch):
    assert f"TORCH={torch} is not a release" in says("--torch", torch)


@pytest.mark.parametrize("torch, triton", [("2.11.0", "3.6.0"), ("2.14.1", "3.8.0"), ("2.13.0+cu126", "3.7.1")])
def test_torch_brings_its_triton(root, fake_venv, torch, triton):
    assert bootstrap.main(["--root", str(root), "--torch", torch]) == 0
    assert fake_venv == [f'torch=={torch}\ntriton=={triton} ; sys_platform == "linux"\n']


def test_the_pins_are_a_pair():
    pins = dict(re.findall(r"(?m)^(torch|triton)==(\S+)", (ROOT / "requirements.txt").read_text()))
    assert bootstrap.TRITON_FOR[pins["torch"]] == pins["triton"]


def test_py_and_torch_exclude_each_other(says):
    assert "give one of the two" in says("--py", "python3", "--torch", "2.11.0")


def test_py_without_torch(says, tmp_path):
    bare = stub(tmp_path / "python", f'exec "{sys.executable}" -I -S "$@"')  # no site-packages
    assert re.search(r"lacks torch, numpy, .*hypothesis: install", says("--py", bare))
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("torch, status", [("2.15.0", 1), ("2.14.1", 0), ("2.11.0+cu126", 0), ("2.10.1", 1)])
def test_py_with_torch(monkeypatch, tmp_path, capsys, torch, status):
    (tmp_path / "torch.py").write_text(f"__version__ = '{torch}'")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(bootstrap.glob, "glob", lambda pattern: [])
    assert bootstrap.main(["--py", sys.executable, "--for", "doctor"]) == status
    assert capsys.readouterr().err.count(f"has torch {torch}") == status


@pytest.mark.parametrize("script, line", [("echo found python 3.10", "is Python 3.10"), ("exit 1", "does not run")])
def test_py_that_will_not_do(says, tmp_path, script, line):
    assert line in says("--py", stub(tmp_path / "python", script))


@pytest.mark.parametrize("purpose, lines", [("test", 1), ("book", 0)])
def test_a_driver_too_old_is_a_warning(monkeypatch, tmp_path, capsys, purpose, lines):
    python = stub(tmp_path / "python", "echo 'warn  driver  470.57 does not run this torch'")
    monkeypatch.setattr(bootstrap, "inspect", lambda *args: None)
    monkeypatch.setattr(bootstrap.glob, "glob", lambda pattern: ["/dev/nvidia0"])
    assert bootstrap.main(["--py", python, "--for", purpose]) == 0
    assert capsys.readouterr().out == "setup: warning: driver 470.57 does not run this torch\n" * lines


# ---- the Makefile ----------------------------------------------------------------------------

@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_make_lists_its_targets_and_stops_on_a_bad_python(monkeypatch):
    make = ["make", "--no-print-directory", "-C", str(ROOT)]
    for name in ("MAKEFLAGS", "TORCH", "PY", "ARGS"):  # `make test TORCH=...` hands its choice down
        monkeypatch.delenv(name, raising=False)
    listed = subprocess.run(make, capture_output=True, text=True).stdout
    phony = re.search(r"(?m)^\.PHONY: (.*)", (ROOT / "Makefile").read_text()).group(1).split()
    assert re.findall(r"(?m)^  make (\S+) +\S", listed) == phony
    done = subprocess.run(make + ["book", "PY=/nowhere/python"], capture_output=True, text=True)
    assert done.returncode and done.stderr.startswith("setup: PY=/nowhere/python does not run")
