"""Every chapter keeps the rules of tools/notebook_rules.py. No cell is executed here: nbval does."""

from collections import Counter

import nbformat
import pytest

from tools.notebook_rules import ROOT, check, code_cells

CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))


def test_there_is_a_chapter():
    assert CHAPTERS, "no chapters/*.ipynb: the tests of the chapters would pass without one"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.name)
def test_chapter_keeps_the_rules(path):
    violations = check(nbformat.read(path, as_version=4), path.name)
    assert not violations, f"{len(violations)} violations:\n" + "\n".join(violations)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.name)
def test_chapter_is_a_valid_notebook(path):
    nbformat.validate(nbformat.read(path, as_version=nbformat.NO_CONVERT))


def test_figure_names_are_unique_in_the_book():
    names = Counter(
        cell.metadata["mystnb"]["figure"]["name"]
        for path in CHAPTERS for _, cell in code_cells(nbformat.read(path, as_version=4))
        if cell.metadata.get("mystnb", {}).get("figure", {}).get("name"))
    assert [name for name, count in names.items() if count > 1] == []
