"""The checkers of *A CUDA graph in thirty lines of Python* pass the solutions and refuse wrong answers."""

import textwrap
from pathlib import Path

import nbformat
import pytest
import torch

from book import exercises
from book.exercises.recorder import PROGRAMS

RIGHT = {"A": "15 10", "B": "2 20", "C": "1"}


def scaled(x, slots, scalings, y):
    own = torch.where(slots >= 0, scalings[slots.clamp(min=0)], 0.0)
    y.add_(x * own[:, None])


def scaled_by_slot(x, slots, scalings, y):
    for slot in range(len(scalings)):
        y += x * ((slots == slot) * scalings[slot])[:, None]


def scaled_in_a_python_loop(x, slots, scalings, y):  # right without a graph
    for token, slot in enumerate(slots.tolist()):
        if slot >= 0:
            y[token] += x[token] * scalings[slot]


def scaled_with_a_negative_index(x, slots, scalings, y):  # right while every token has an adapter
    y += x * scalings[slots][:, None]


def scaled_by_python_numbers(x, slots, scalings, y):  # right while the scales stay
    for slot, scale in enumerate(scalings.tolist()):
        y += x * ((slots == slot) * scale)[:, None]


def scaled_elsewhere(x, slots, scalings, y):
    y = y + x * torch.where(slots >= 0, scalings[slots.clamp(min=0)], 0.0)[:, None]


def scaled_where_it_matters(x, slots, scalings, y):
    rows = slots >= 0
    y[rows] += x[rows] * scalings[slots[rows]][:, None]


def scaled_if_asked(x, slots, scalings, y):
    if (slots >= 0).any():
        scaled(x, slots, scalings, y)


def scaled_up_to_the_last(x, slots, scalings, y):
    tokens = max([t for t, s in enumerate(slots.tolist()) if s >= 0], default=-1) + 1
    scaled(x[:tokens], slots[:tokens], scalings, y[:tokens])


def outside(trace):
    seen, found = set(), set()
    for _, given, results in trace:
        found |= set(given) - seen
        seen |= set(given) | set(results)
    return found


def given_and_never_a_result(trace):  # forgets what a view or an in-place operation returns
    return ({place for _, given, _ in trace for place in given}
            - {place for _, _, results in trace for place in results})


def given(trace):
    return {place for _, given, _ in trace for place in given}


def of_the_first_call(trace):
    return set(trace[0][1])


@pytest.mark.parametrize("checker, answer", [
    (exercises.check_scale_rows, scaled), (exercises.check_scale_rows, scaled_by_slot),
    (exercises.check_external, outside)])
def test_the_solutions_pass(checker, answer, capsys):
    checker(answer)
    assert capsys.readouterr().out == "passed\n"


def test_the_right_predictions_pass(capsys):
    exercises.check_predictions(**RIGHT)
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.parametrize("wrong", [
    {"A": "50 10"}, {"A": "10 10"}, {"A": "15 3"}, {"B": "3 30"}, {"B": "2 10"}, {"C": "2"}, {"C": "3"},
    {"A": None}])
def test_wrong_predictions_are_refused_without_the_answer(wrong, capsys):
    (name, answer), = wrong.items()
    with pytest.raises(AssertionError, match=f"program {name} does not print") as refusal:
        exercises.check_predictions(**RIGHT | wrong)
    assert RIGHT[name] not in str(refusal.value) or name == "C"  # C's list holds a 1
    assert capsys.readouterr().out == ""


def test_the_chapter_shows_the_programs_that_are_checked():
    chapter = Path(__file__).parent.parent / "chapters" / "22_a_cuda_graph_in_thirty_lines.ipynb"
    text = "\n".join(cell.source for cell in nbformat.read(chapter, 4).cells)
    assert set(PROGRAMS) == set(RIGHT)
    for name, program in PROGRAMS.items():
        assert textwrap.indent(f"# {name}\n{program}\n", "    ") in text


@pytest.mark.parametrize("checker, message, answer", [
    (exercises.check_scale_rows, r"captured with slots \[2, 0, 1\], replayed for \[1, 0, -1",
     scaled_in_a_python_loop),
    (exercises.check_scale_rows, "without a graph: row 3", scaled_with_a_negative_index),
    (exercises.check_scale_rows, "captured with slots .*, replayed for", scaled_by_python_numbers),
    (exercises.check_scale_rows, "without a graph: row 0", scaled_elsewhere),
    (exercises.check_scale_rows, "replayed for", scaled_up_to_the_last),
    (exercises.check_external, "expected", given_and_never_a_result),
    (exercises.check_external, "expected", given),
    (exercises.check_external, "expected", of_the_first_call),
])
def test_wrong_answers_are_refused(checker, message, answer, capsys):
    with pytest.raises(AssertionError, match=message):
        checker(answer)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("answer", [scaled_where_it_matters, scaled_if_asked])
def test_answers_that_read_the_device_are_refused_by_the_recorder(answer):
    with pytest.raises(RuntimeError, match="rule L2"):
        exercises.check_scale_rows(answer)
