"""lint against a GPU: every snippet that was tried on one, and what became of it there."""

import json
import warnings
from collections import Counter

import pytest
import torch

from benchmarks.capture_snippets import HERE, SETS, agrees, linted

RESULT = json.loads((HERE / "results" / "capture_snippets.json").read_text())
CASES = [case for case in RESULT["cases"] if "captured" in case]
BLIND = {  # what lint does not say right, and why
    "torch.cuda.FloatTensor": "a type that exists with CUDA only",
    "torch.histc(n": "a CPU has no histc of integers",
    "label_smoothing=.1, ignore_index=2": "takes another way while it is watched",
    ".prod().backward()": "takes another way while it is watched",
    "torch.combinations": "does not read the device since PyTorch 2.14",
}
ONLY_WITH_GRADIENTS = (".backward()", "autograd", "requires_grad")


@pytest.fixture(autouse=True)
def distributions_check_their_arguments():
    """As in a new process: PyTorch's compiler turns it off, wherever another test has used it."""
    torch.distributions.Distribution.set_default_validate_args(True)


def is_blind(code: str) -> bool:
    return any(part in code for part in BLIND)


def test_the_results_are_of_the_committed_snippets():
    codes = {which: [case["code"] for case in RESULT["cases"] if case["set"] == which] for which in SETS}
    assert codes == SETS
    ran = Counter(case["set"] for case in CASES)
    assert sum(ran.values()) >= 0.98 * len(RESULT["cases"])
    captured = Counter(case["set"] for case in CASES if case["captured"])
    for which, count in ran.items():
        assert 0.3 < captured[which] / count < 0.7, "neither answer may be a safe guess"


@pytest.mark.parametrize("case", [case for case in CASES if case["set"] == "sample"],
                         ids=lambda case: case["code"])
def test_the_sample_row_by_row(case):
    assert (not linted("sample", case["code"]).breaks) == case["captured"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("which", [which for which in SETS if which != "sample"])
def test_lint_says_what_the_gpu_did(which):
    cases = [case for case in CASES if case["set"] == which]
    wrong = [case["code"] for case in cases if not agrees(case) and not is_blind(case["code"])]
    assert not wrong
    assert sum(is_blind(case["code"]) for case in cases) <= 0.02 * len(cases)


@pytest.mark.filterwarnings("ignore")
def test_no_false_breaks_at_all():
    for case in CASES:
        if case["captured"] and not is_blind(case["code"]):
            report = linted(case["set"], case["code"])
            assert not report.breaks, f"{case['code']}\n{report}"


@pytest.mark.filterwarnings("ignore")
def test_the_same_in_inference_mode():
    """There PyTorch hands its composite operations on whole."""
    wrong = []
    with torch.inference_mode(), warnings.catch_warnings():
        for case in CASES:
            if not any(word in case["code"] for word in ONLY_WITH_GRADIENTS) and not is_blind(case["code"]):
                if not agrees(case):
                    wrong.append(case["code"])
    assert len(wrong) <= 1, wrong  # istft is one operation there
