"""Each silent rule, by the chapter's own functions: the first form's replay lies, the second's does not.

S1, S2, S4, S5, S10, S12, S13 and S14 run on a CPU too, through the recorder; the others need a GPU.
"""

import re

import nbformat
import pytest
import torch

from chapter_functions import CHAPTERS, function_names, functions_of

CHAPTER = "24_the_silent_rules"
RULES = [f"S{number}" for number in range(1, 18)]
ANYWHERE = {"S1", "S2", "S4", "S5", "S10", "S12", "S13", "S14"}
EACH_RULE = [pytest.param(rule, marks=[] if rule in ANYWHERE else [pytest.mark.gpu], id=rule)
             for rule in RULES]
AS_SEEN = {  # what the lie is, where it does not depend on who is faster
    "S1": [10.0, 20.0], "S2": [1.0, 2.0], "S3": [10.0, 0.0, 0.0, 0.0], "S4": [1.0, 2.0], "S5": 1,
    "S6": [3.0, 1.0], "S7": [99.0, 99.0], "S9": [100.0, 100.0], "S10": [31.0] * 3,
    "S11": [1010.0, 1010.0], "S12": [1.0] * 3, "S13": [1, 2, 3], "S14": [10.0, 20.0, 30.0],
    "S15": [11.0, 2.0, 3.0, 4.0], "S16": [10.0, 20.0], "S17": 0}


def markdown() -> str:
    notebook = nbformat.read(CHAPTERS / f"{CHAPTER}.ipynb", as_version=4)
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


@pytest.fixture(autouse=True)
def the_process_stays_well():
    yield
    if torch.cuda.is_available():
        assert not torch.cuda.is_current_stream_capturing()
        assert torch.rand(4, device="cuda").sum().item() > 0


def test_every_rule_has_both_forms():
    wanted = {f"{rule}_{form}" for rule in RULES for form in ("lies", "fixed")}
    assert wanted <= function_names(CHAPTER)
    assert {name for name in function_names(CHAPTER) if re.fullmatch(r"S\d+_(lies|fixed)", name)} == wanted


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_a_heading_with_a_label(rule):
    assert re.search(rf"^\(rule-{rule.lower()}\)=\n#+ {rule}: \S", markdown(), re.MULTILINE)


@pytest.mark.kernels
@pytest.mark.parametrize("name", [f"{rule}_{form}" for rule in RULES for form in ("lies", "fixed")])
def test_the_table_at_the_end_has_a_short_text_for_each(name):
    text = functions_of(CHAPTER)[name].__doc__
    assert text and "\n" not in text and len(text) <= 35, text


@pytest.mark.kernels
@pytest.mark.parametrize("rule", EACH_RULE)
def test_the_replay_lies(rule):
    replayed, expected = functions_of(CHAPTER)[f"{rule}_lies"]()
    assert replayed != expected
    if rule in AS_SEEN:
        assert replayed == AS_SEEN[rule]


@pytest.mark.kernels
@pytest.mark.parametrize("rule", EACH_RULE)
def test_the_fixed_form_does_not(rule):
    replayed, expected = functions_of(CHAPTER)[f"{rule}_fixed"]()
    assert replayed == expected


@pytest.mark.kernels
@pytest.mark.parametrize("rule", EACH_RULE)
def test_a_second_time_it_is_the_same(rule):
    """Memory that the first time left behind must not help or hurt."""
    functions = functions_of(CHAPTER)
    for _ in range(2):
        for form, agree in (("lies", False), ("fixed", True)):
            replayed, expected = functions[f"{rule}_{form}"]()
            assert (replayed == expected) is agree, form


@pytest.mark.gpu
def test_the_race_needs_the_wait_and_not_the_second_buffer():
    own = functions_of(CHAPTER)["S8_own"]
    without, steps = own(buffers=2, wait=False)
    assert without < steps // 2
    assert own(buffers=1, wait=True) == (steps, steps)


@pytest.mark.kernels
@pytest.mark.parametrize("programs, served", [(1, [10.0, 0.0, 0.0, 0.0]), (3, [10.0, 20.0, 30.0, 30.0])])
def test_the_toy_kernel_serves_its_segments(programs, served):
    functions = functions_of(CHAPTER)
    vector, y = functions["vector"], functions["vector"](0.0, 0.0, 0.0, 0.0)
    kernel = functions["serve_segments"]
    kernel[(programs,)](y, vector(0, 1, 2, 4).int(), vector(0, 1, 2).int(),
                        vector(10.0, 20.0, 30.0), BLOCK=4)
    assert y.tolist() == served
