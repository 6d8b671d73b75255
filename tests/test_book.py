"""The book as a whole: what its pages say of each other, and the rendered pages if they are there."""

import re
from pathlib import Path

import nbformat
import pytest
import yaml

from tools import picture

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
HTML = ROOT / "_build" / "html"


def text_of(chapter: Path) -> str:
    return "\n".join(c.source for c in nbformat.read(chapter, 4).cells if c.cell_type == "markdown")


def title_of(chapter: Path) -> str:
    return re.search(r"(?m)^# (.*)", text_of(chapter))[1]


def test_every_chapter_is_in_the_table_of_contents():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    files = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    assert [f for f in files if f.startswith("chapters/")] == [
        f"chapters/{chapter.stem}" for chapter in CHAPTERS]


def test_the_picture_is_the_one_that_was_recorded():
    assert picture.PICTURE.read_bytes() == picture.recorded(), "run tools/picture.py"


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_the_instructors_minutes_are_the_chapters(chapter):
    minutes = re.search(r"\*\*Minutes:\*\* (\d+), and (\d+) more", text_of(chapter)).groups()
    table = (ROOT / "appendix" / "running.md").read_text()
    assert f"| {title_of(chapter)} | {minutes[0]} | {minutes[1]} |" in table


def test_the_instructors_plans_add_up():
    """Each plan names its chapters, with or without exercises, and the sum of their minutes."""
    minutes = {title_of(c): [*map(int, re.search(
        r"\*\*Minutes:\*\* (\d+), and (\d+) more", text_of(c)).groups())] for c in CHAPTERS}
    parts = {title_of(c): c.stem[0] for c in CHAPTERS}
    said = (ROOT / "appendix" / "running.md").read_text()
    plans = re.findall(r"(?m)^- \*\*(.*?):\*\* (.*?) (with|without) their exercises, (\d+) minutes", said)
    assert len(plans) == 8
    for plan, chapters, exercises, total in plans:
        named = [t for t in minutes if f"*{t}*" in chapters or chapters == "all chapters"
                 or chapters == "the chapters of Parts I and II" and parts[t] in "12"]
        assert named, plan
        assert sum(sum(minutes[t][:1 if exercises == "without" else 2]) for t in named) == int(total), plan
        assert plan != "Ninety minutes" or int(total) <= 90


def test_the_pages_name_the_machine_that_recorded_the_chapters():
    recorded = {(r["device"], r["torch"], r["triton"]) for chapter in CHAPTERS
                for c in nbformat.read(chapter, 4).cells if (r := c.metadata.get("recorded"))}
    (device, torch, triton), = recorded
    said = (ROOT / "appendix" / "running.md").read_text()
    short = [".".join(re.findall(r"\d+", version)[:2]) for version in (torch, triton)]
    assert f"from an {device} with PyTorch {short[0]} and Triton {short[1]}" in said
    assert f"recorded on an {device}" in (ROOT / "intro.md").read_text()


def test_the_page_of_rules_has_each_rule_once_and_links_to_its_chapter():
    page = (ROOT / "appendix" / "rules.md").read_text()
    rules = re.findall(r"(?m)^\| \{ref\}`([LS]\d+) <rule-(\w+)>` ", page)
    assert [number for number, _ in rules] == [f"L{i}" for i in range(1, 20)] + [f"S{i}" for i in range(1, 18)]
    assert all(label == number.lower() for number, label in rules)
    taught = "".join(text_of(chapter) for chapter in CHAPTERS)
    for number, label in rules:
        assert re.search(rf"(?m)^\(rule-{label}\)=\n#+ .*\b{number}\b", taught), f"no section teaches {number}"


def test_every_reference_is_cited_by_a_known_key():
    keys = set(re.findall(r"(?m)^@\w+\{([^,]+),", (ROOT / "references.bib").read_text()))
    cited = {key for chapter in CHAPTERS
             for group in re.findall(r"\{cite\}`([^`]+)`", text_of(chapter))
             for key in group.split(",")}
    assert cited and cited <= keys


@pytest.mark.skipif(not HTML.exists(), reason="the book is not built here (make book)")
def test_the_rendered_pages_load_nothing_from_the_network():
    pages = [p for p in HTML.rglob("*.html") if "_static" not in p.parts]
    loads = set()
    for html in (page.read_text() for page in pages):
        loads |= set(re.findall(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"([^\"]+)\"", html))
        loads |= set(re.findall(r"<link[^>]*rel=\"stylesheet\"[^>]*href=\"([^\"]+)\"", html))
    assert len(pages) > len(CHAPTERS) and len(loads) > 10
    assert not [url for url in loads if url.startswith(("http", "//"))]
