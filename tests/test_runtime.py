"""The device, and the interpreter's switch."""

import os
import subprocess
import sys

import torch

from lorakit import runtime


def in_a_fresh_process(code: str, **variables: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | variables
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True,
                         text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


SHOW = "import lorakit.runtime as r; print(r.INTERPRETED, r.device().type, torch.bfloat16 in r.KERNEL_DTYPES)"


def test_without_a_gpu_the_interpreter_is_chosen_before_triton_loads():
    code = "import torch; " + SHOW
    assert in_a_fresh_process(code, CUDA_VISIBLE_DEVICES="-1") == "True cpu False"


def test_describe_names_device_and_versions():
    described = runtime.describe()
    assert set(described) == {"device", "torch", "triton"}
    assert described["torch"] == torch.__version__
    assert (described["device"] == "CPU") == (runtime.device().type == "cpu")
