"""The device, and the interpreter's switch."""

import os
import subprocess
import sys

import pytest
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


@pytest.mark.kernels
def test_without_the_interpreter_cpu_tensors_are_refused_in_a_sentence():
    code = """if 1:
        import torch
        from lorakit.adapters import LoRAWeights
        from lorakit.ops import lora_linear
        from lorakit.routing import route_by_adapter
        one = torch.ones(1)
        weights = LoRAWeights.zeros(1, 1, 1, (1,), torch.float32, "cpu")
        try:
            lora_linear(one[None], weights, route_by_adapter(one.int(), one.int(), one), one[None])
        except RuntimeError as error:
            print(error)
    """
    said = in_a_fresh_process(code, CUDA_VISIBLE_DEVICES="-1", TRITON_INTERPRET="0")
    assert said.startswith("weights are on the CPU") and "import lorakit before triton" in said


def test_describe_names_device_and_versions():
    described = runtime.describe()
    assert set(described) == {"device", "torch", "triton"}
    assert described["torch"] == torch.__version__
    assert (described["device"] == "CPU") == (runtime.device().type == "cpu")
