"""The cases of book/cases.py: lint's verdicts, on a GPU those of all four tools, and no rule left out."""

import re
from pathlib import Path

import pytest
import torch

from book import cases
from book.cases import CASES, CAUGHT, NAMED, SILENT, Case, doubled
from lorakit import runtime
from lorakit.capture import lint

ON_CPU = torch.device("cpu")
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule} {case.name}")
LINT = {  # where lint does not name the rule: its verdict, and why that is right
    "a new kernel": SILENT,  # an interpreter compiles nothing
    "rebound metadata": CAUGHT,  # as S1, which it is
    "a log": SILENT,  # no tensor is involved
    "a staging buffer": SILENT,  # it sees a step, and no server
    "a kept output": SILENT,  # its note S10 is said of the twin too
    "a tail": SILENT,  # it compares launches, and no values
    "a specialisation": CAUGHT,  # as S2: the number is frozen too
}


def report_of(case: Case, step):
    batches = case.batches(ON_CPU)
    return lint(step, *batches(0), other=lambda: batches(1))


@EACH
def test_lint_says_of_a_case_what_it_should(case):
    assert cases.linted(case, fixed=False) == LINT.get(case.name, NAMED), report_of(case, case.step)


@EACH
def test_lint_finds_nothing_in_the_twin(case):
    report = report_of(case, case.fixed)
    assert not report.breaks and not report.frozen, report
    assert cases.linted(case, fixed=True) == SILENT, report


@EACH
@pytest.mark.parametrize("i", range(3))
def test_the_twin_computes_what_the_step_means(case, i):
    one, two = (lint(step, *case.batches(ON_CPU)(i)).result for step in (case.step, case.fixed))
    torch.testing.assert_close(one, two, rtol=0, atol=0)


@EACH
def test_a_batch_is_a_function_of_its_number(case):
    """assert_graph_safe demands it, and that no batch has more rows than the first."""
    batches, first = case.batches(ON_CPU), case.batches(ON_CPU)(0)
    for i in range(5):
        for value, again, zeroth in zip(batches(i), batches(i), first, strict=True):
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, again) and value.shape == zeroth.shape
            else:
                assert type(value) is type(zeroth)


def test_no_batch_of_the_tail_has_the_sum_of_another_behind_it():
    """Else a step that reads the tail would be right by chance."""
    held, rest = cases.Held(ON_CPU), set()
    for i in range(5):
        cases.with_tail(i, held)
        rest.add(held.buffer[3:].sum().item())
        assert held.rows.item() <= 8
    assert len(rest) == 4  # batch 1 has three rows: it leaves the first batch's


@pytest.mark.kernels  # some cases need Triton
def test_every_rule_is_a_case_or_says_why_not():
    page = Path(cases.__file__).parents[1] / "appendix" / "rules.md"
    rules = re.findall(r"^\| \{ref\}`([LS]\d+) ", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rules) == 36
    assert sorted({case.rule for case in CASES} | set(cases.NOT_A_STEP)) == sorted(rules)
    assert not {case.rule for case in CASES} & set(cases.NOT_A_STEP)
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) and {*cases.UNSEEN, *LINT} <= set(names)
    assert [case.rule for case in CASES] == sorted((case.rule for case in CASES), key=rules.index)


@pytest.mark.skipif(runtime.HAS_GPU, reason="there all four run")
def test_without_a_gpu_the_table_has_one_column():
    for case, verdicts in cases.table(CASES[:2]):
        assert isinstance(case, Case) and verdicts == {"lint": NAMED}


def test_a_crash_is_no_verdict():
    def crashes(x, held):
        raise ValueError("of its own")

    case = Case("crash", "L1", "crashes", crashes, doubled)
    for name, tool in cases.TOOLS.items():
        if runtime.HAS_GPU or name == "lint":
            with pytest.raises(ValueError, match="of its own"):
                tool(case, False)


@pytest.mark.gpu
@EACH
def test_some_tool_catches_a_case(case):
    verdicts = cases.run(case)
    assert list(verdicts) == list(cases.TOOLS)
    assert set(verdicts.values()) != {SILENT} or case.name in cases.UNSEEN
    assert torch.rand(2, device="cuda").shape == (2,)  # the process is well


@pytest.mark.gpu
@EACH
def test_all_tools_are_silent_on_the_twin(case):
    assert set(cases.run(case, fixed=True).values()) == {SILENT}
