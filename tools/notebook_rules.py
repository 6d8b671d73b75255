"""The rules that a chapter's notebook keeps, each one a function that lists its violations.

`check(nb, name)` runs them all and returns one line for each violation; an empty list is a pass.
tools/record.py runs the ones about outputs before it writes; tests/test_notebooks.py runs all of
them on every chapter. Nothing here executes a notebook.
"""

import ast
import hashlib
import html
import json
import re
import statistics
from decimal import Decimal
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

MAX_CODE_LINES, MAX_MEDIAN_LINES, MIN_CELLS, MAX_CELLS = 25, 8, 30, 60
MAX_CODE_WIDTH = 88
OPENING = ("Questions", "Objectives", "Minutes", "Prerequisites")
CLOSING = ("Key points", "Exercises", "The limit")
TAGS = {
    "gpu", "kernels", "nbval-check-output", "raises-exception", "stderr-ok",
    "hide-input", "hide-output", "hide-cell", "remove-input", "remove-output", "full-width",
}
VERSION_FIELDS = ("device", "torch", "triton")


# -- reading a notebook ---------------------------------------------------------------------------

def source_hash(source: str) -> str:
    """The first 16 hex digits of the source's sha256. Trailing whitespace does not count."""
    lines = [line.rstrip() for line in source.rstrip().splitlines()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def code_cells(nb):
    """(index in the notebook, cell) of each code cell."""
    return [(i, cell) for i, cell in enumerate(nb.cells) if cell.cell_type == "code"]


def markdown_cells(nb):
    """(index in the notebook, cell) of each markdown cell."""
    return [(i, cell) for i, cell in enumerate(nb.cells) if cell.cell_type == "markdown"]


def outputs(nb):
    """(index of the cell, cell, output) of each recorded output."""
    return [(i, cell, out) for i, cell in code_cells(nb) for out in cell.outputs]


def is_image(output) -> bool:
    """True if a reader sees a picture: an image, or HTML that holds one."""
    data = output.get("data", {})
    return (any(kind.startswith("image/") for kind in data)
            or bool(re.search(r"<(img|svg)\b", data.get("text/html", ""))))


def output_text(output) -> str:
    """What a reader reads in an output. The text that stands in for an image is left out."""
    if output.output_type == "stream":
        return output.text
    if output.output_type == "error":
        return f"{output.ename}: {output.evalue}"
    data = output.get("data", {})
    page = re.sub(r"(?s)<(style|script|svg)\b.*?</\1>|<[^>]*>", " ", data.get("text/html", ""))
    plain = "" if is_image(output) else data.get("text/plain", "")
    return "\n".join([plain, html.unescape(page), data.get("text/markdown", "")])


def captions(cell) -> str:
    """The alt text and the caption of a figure cell: prose too."""
    shown = cell.metadata.get("mystnb", {})
    return "\n\n".join([str(shown.get("image", {}).get("alt", "")),
                        str(shown.get("figure", {}).get("caption", ""))])


# -- prose: markdown without its syntax -----------------------------------------------------------

_FENCE = re.compile(r"^[\s>]*(`{3,}|~{3,}|:{3,})\s*(\{[\w:.-]+\})?(.*)$")
_NOT_PROSE = {"{code}", "{code-block}", "{code-cell}", "{literalinclude}", "{math}", "{figure}",
              "{image}", "{bibliography}", "{mermaid}", "{raw}", "{eval-rst}", "{toctree}"}
_OPTION = re.compile(r"^[\s>]*:[\w-]+:(\s|$)")


def _without_fences(source: str) -> str:
    """Drops code blocks. Keeps the title and the body of directives that hold prose."""
    kept, stack, options = [], [], False  # stack: (fence, the block holds prose)
    for line in source.splitlines():
        fence = _FENCE.match(line)
        closes = (fence and stack and not fence[2] and not fence[3].strip()
                  and fence[1].startswith(stack[-1][0]))
        if closes:
            stack.pop()
        elif stack and not stack[-1][1]:
            continue
        elif fence and (fence[2] or fence[1][0] != ":"):
            prose_inside = bool(fence[2]) and fence[2] not in _NOT_PROSE
            stack.append((fence[1], prose_inside))
            options = True
            kept += ["", fence[3] if prose_inside else "", ""]
        elif options and stack and _OPTION.match(line):
            continue
        else:
            options = False
            kept.append(line)
    return "\n".join(kept)


_SYNTAX = [  # in this order: each pattern may rely on those before it
    r"(?s)<!--.*?-->",
    r"(?s)(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)",  # inline code, and what a role like {cite} holds
    r"(?s)\$\$.*?\$\$",
    r"(?s)\\begin\{(\w+\*?)\}.*?\\end\{\1\}",
    r"(?<!\\)\$(?:[^$\n]|\n(?!\s*\n))+?(?<!\\)\$",
    r"(?m)^\(.+\)=\s*$",  # a target
    r"(?m)^\[[^\]]+\]:\s.*$",  # a link's definition
    r"(?m)^%.*$",  # a comment
    r"</?[A-Za-z][\w-]*(?:\s+[A-Za-z_:][\w:.-]*(?:=(?:\"[^\"]*\"|'[^']*'|[^\s\"'<>`]+))?)*\s*/?>",
    r"(?<=\])\([^)\s]*(?:\s+\"[^\"]*\")?\)",  # a link's target
    r"https?://[^\s)>\]]+",
    r"\[\^[\w-]+\]",  # a footnote
    r"\{[#.][^}]*\}",  # attributes
]


def prose(source: str) -> str:
    """The words of a markdown cell: no code, math, roles, link targets or HTML tags."""
    text = _without_fences(source)
    for pattern in _SYNTAX:
        text = re.sub(pattern, " ", text)
    return html.unescape(text)


# -- numbers --------------------------------------------------------------------------------------

_UNIT = r"(?:us|µs|μs|ms|ns|s|x|×|%|times|percent|requests?|tokens?|[KMGT]i?B)"
_VERSIONED = (r"(?:torch|PyTorch|Triton|Python|CUDA|cuDNN|NumPy|Jupyter(?: Book)?|JupyterLab|"
              r"Sphinx|nbval|driver|SGLang|vLLM|Llama|Linux|Debian|Ubuntu|CC BY|"
              r"compute capability|versions?)")
_DOTTED = rf"v?\d+(?:\.\d+)+(?:\+\w+)?(?![\d.]|\s*{_UNIT}(?!\w))"
_MAJOR = r"v?\d+(?![\d.,]*\d|-\w|\s*(?:[%×µμ]|(?!(?:and|or|to|the|is|has|on|in|with)\b)[a-z]))"
_NAMES = [
    rf"\b{_VERSIONED}(?:\s+versions?)?\s+(?:{_DOTTED}|{_MAJOR})"
    rf"(?:(?:,|,? and|,? or| to| through| up to|\s*[-–])\s*{_DOTTED})*",
    r"\b(?:PR|[Pp]ull request|[Ii]ssue)s?\s+#?\d+\b",
    r"(?<![\w/.-])[\w/.-]*#\d+\b",  # an issue
    r"\barXiv:\d+\.\d+(?:v\d+)?",
    r"\b(?:Chapter|Exercise|Solution|Figure|Section|Appendix|Part|Step|Table)s?\s+\d+\b"
    rf"(?![.,]\d|\s*{_UNIT}(?!\w))",
    r"\b\d*(?:1st|2nd|3rd|\dth)\b",
    r"\b[123]-?D\b",
    r"\b(?:8|16|32|64)-bit\b",
    r"\b(?!Rank|Top|Sub|Under|Over)[A-Z][A-Za-z]*\d*(?:-\d+(?:\.\d+)*[A-Za-z]*)+\b",  # Llama-3.1-8B
    r"\b(?!x\d)[A-Za-z_]\w*?\d\w*(?:\.\d+)*",  # fp32, H200, sm_90, v2.1
    r"\bx86(?:-64)?\b",
]
_NUMERAL = re.compile(  # applied to what is left: no digit can fall between two matches
    r"(?:\d{1,3}(?:[,\u2009\u202f\u00a0]\d{3})+(?!\d)|\d+)(?:\.\d+)*(?:[eE][-+]?\d+\b)?|\.\d+")
_EVIDENCE = re.compile(
    r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+(?:\.\d+)*|\.\d+)(?:[eE][-+]?\d+)?")
_YEAR_OR_DATE = re.compile(r"\b(?:19|20)\d\d(?:-\d\d-\d\d)?\b(?![.,]\d)")
_RESULT_FILE = re.compile(r"`(benchmarks/results/[\w.-]+\.json)`")
_CITE = re.compile(r"\{cite(?::\w+)?\}`")
_LIST_ITEM = re.compile(r"^[\s>]*(?:[-*+]\s+|\d+[.)]\s+)")


def _without_numbering(text: str) -> str:
    """Drops the numbers of headings ('## 2. Title') and of list items ('1. item')."""
    kept, fresh, in_list = [], True, False  # fresh: a list of any number may start on this line
    for line in text.splitlines():
        item = _LIST_ITEM.match(line)
        if item and (fresh or in_list or re.search(r"\b1[.)]", item[0])):
            line, in_list = line[item.end():], True
        elif fresh:
            in_list = False
        kept.append(re.sub(r"^(#{1,6}\s+)\d+(?:\.\d+)*[.:)]\s", r"\1", line))
        fresh = not line.strip() or line.startswith("#")
    return "\n".join(kept)


def numerals(text: str) -> list[tuple[str, bool]]:
    """(numeral, a percent sign follows) of each numeral that is a value and not part of a name."""
    text = _without_numbering(text)
    for pattern in _NAMES:
        text = re.sub(pattern, " ", text)
    return [(m[0], bool(re.match(r"\s?(?:%|percent\b)", text[m.end():])))
            for m in _NUMERAL.finditer(text)]


def _plain(numeral: str) -> str:
    return re.sub(r"[,\u2009\u202f\u00a0]", "", numeral)


class Evidence:
    """The numbers that a notebook recorded, or that its code states."""

    def __init__(self):
        self.values: set[Decimal] = set()
        self.versions: set[str] = set()  # numerals with two dots: equal as text or not at all

    def add_text(self, text: str):
        for match in _EVIDENCE.finditer(re.sub(r"\b0x[0-9a-fA-F]+", " ", text)):
            # '2,188' may be one number or a list: it counts as either
            for numeral in {_plain(match[0]), *match[0].split(",")}:
                if numeral.count(".") > 1:
                    self.versions.add(numeral)
                else:
                    self.values.add(Decimal(numeral))

    def add_code(self, source: str):
        """Number literals; a number inside a string or a comment is none."""
        lines = [line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))]
        try:
            tree = ast.parse("\n".join(lines))
        except SyntaxError:
            return
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant):
                self.add_json(node.value)

    def add_json(self, value):
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, (list, tuple)):
            for part in value:
                self.add_json(part)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            if Decimal(str(value)).is_finite():
                self.values.add(abs(Decimal(str(value))))

    def supports(self, numeral: str, percent: bool = False) -> bool:
        """True if a recorded number, rounded to the numeral's own digits, is the numeral.

        Rounding may move a number by a tenth of itself at most: 3 stands for 3.2, not for 2.6.
        A percentage is also supported by a fraction.
        """
        numeral = _plain(numeral)
        if numeral.count(".") > 1:
            return numeral in self.versions
        stated = Decimal(numeral)
        half_unit = Decimal(5).scaleb(stated.as_tuple().exponent - 1)
        scales = (1, 100) if percent else (1,)
        return any(abs(value * scale - stated) <= min(half_unit, abs(value * scale) / 10)
                   for value in self.values for scale in scales)


def evidence_of(nb) -> Evidence:
    """What supports the prose anywhere in this notebook: recorded text and code literals."""
    found = Evidence()
    for _, cell in code_cells(nb):
        found.add_code(cell.source)
        for output in cell.outputs:
            found.add_text(output_text(output))
    return found


def opening_size(nb) -> int:
    """How many cells stand before the first code cell."""
    return next((i for i, cell in enumerate(nb.cells) if cell.cell_type == "code"), len(nb.cells))


def _without_minutes(text: str) -> str:
    """Drops the line 'Minutes: 30', or the first line below a heading 'Minutes'."""
    return re.sub(r"(?mi)^[\s#>*_|-]*Minutes\b(?:[^\d\n]*\n+[^\n]*$|[^\n]*$)", "", text)


# -- the rules ------------------------------------------------------------------------------------

def executed(nb, root=ROOT):
    """Every code cell was executed, top to bottom, in one run."""
    counts = [cell.execution_count for _, cell in code_cells(nb)]
    for (i, cell), count in zip(code_cells(nb), counts):
        if count is None:
            yield f"cell {i}: never executed"
    if None not in counts and counts != list(range(1, len(counts) + 1)):
        yield f"executed out of order or in part: counts {counts}"


def strict(nb, root=ROOT):
    """A cell whose output must be the same anywhere has one: nothing equals nothing everywhere."""
    for i, cell in code_cells(nb):
        if "nbval-check-output" in tags(cell) and not cell.outputs:
            yield f"cell {i}: tagged nbval-check-output, and has no output to compare"


def recorded(nb, root=ROOT):
    """Every code cell carries the hash of its source and the machine that ran it."""
    for i, cell in code_cells(nb):
        record = cell.metadata.get("recorded", {})
        missing = [key for key in ("source", *VERSION_FIELDS) if not record.get(key)]
        if missing:
            yield f"cell {i}: not recorded: metadata has no recorded.{', recorded.'.join(missing)}"


def stale(nb, root=ROOT):
    """The outputs belong to the source above them."""
    for i, cell in code_cells(nb):
        record = cell.metadata.get("recorded", {}).get("source")
        if record and record != source_hash(cell.source):
            yield f"cell {i}: stale: the source changed after the output was recorded"


def one_machine(nb, root=ROOT):
    """All cells were recorded in one run, on a GPU."""
    for key in VERSION_FIELDS:
        found = {cell.metadata.get("recorded", {}).get(key) for _, cell in code_cells(nb)} - {None}
        if len(found) > 1:
            yield f"recorded with more than one {key}: {sorted(map(str, found))}"
        if key == "device" and "CPU" in found:
            yield "recorded on a CPU: a draft"
        if key == "triton" and "none" in found:
            yield "recorded without triton"


def known_tags(nb, root=ROOT):
    """A misspelt tag would take a cell out of its tier without a word."""
    for i, cell in enumerate(nb.cells):
        for tag in set(tags(cell)) - TAGS:
            yield f"cell {i}: unknown tag {tag!r}"


def expected_failures(nb, root=ROOT):
    """A cell fails if, and only if, it says so, with the exception that it names."""
    for i, cell in code_cells(nb):
        errors = [out for out in cell.outputs if out.output_type == "error"]
        expects, named = "raises-exception" in tags(cell), cell.metadata.get("raises")
        if not expects:
            if named or "raises_match" in cell.metadata:
                yield f"cell {i}: metadata raises, without the tag raises-exception"
            for error in errors:
                yield f"cell {i}: failed: {error.ename}: {error.evalue}"
            continue
        if not named:
            yield f"cell {i}: tagged raises-exception, metadata raises does not name the type"
        if not errors and cell.execution_count is not None:
            yield f"cell {i}: expected {named}, raised nothing"
        for error in errors:
            match = cell.metadata.get("raises_match", "")
            if named and error.ename != named:
                yield f"cell {i}: expected {named}, raised {error.ename}: {error.evalue}"
            elif match not in error.evalue:
                yield f"cell {i}: {error.ename} does not say {match!r} but {error.evalue!r}"


def short_tracebacks(nb, root=ROOT):
    """A recorded error is one entry, without colour codes or file paths."""
    for i, _, out in outputs(nb):
        if out.output_type == "error" and out.traceback != [f"{out.ename}: {out.evalue}"]:
            yield f"cell {i}: the traceback was not reduced; record with tools/record.py"


def no_warnings(nb, root=ROOT):
    """Nothing on stderr, unless the cell is tagged stderr-ok."""
    for i, cell, out in outputs(nb):
        if out.output_type == "stream" and out.name == "stderr" and "stderr-ok" not in tags(cell):
            yield f"cell {i}: stderr output: {out.text.strip().splitlines()[-1:]}"


_MACHINE = re.compile(r"(?<![\w.])/(?:home|root|tmp|Users|private|mnt|workspace|opt|work)/[\w.-]*"
                      r"|\b(?:site|dist)-packages\b")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]{6,}")


def no_machine_paths(nb, root=ROOT, also=()):
    """No path of one machine, and no object address, in a source or an output."""
    for i, cell in enumerate(nb.cells):
        texts = [cell.source, captions(cell)]
        for out in cell.get("outputs", []):
            texts += [output_text(out), *out.get("traceback", [])]
            texts += [str(data) for kind, data in out.get("data", {}).items()
                      if kind.startswith("text/") or kind == "image/svg+xml"]
        text = "\n".join(texts)
        found = [m[0] for m in _MACHINE.finditer(text)]
        found += [path for path in also if re.search(rf"(?<![\w.]){re.escape(path)}(?!\w)", text)]
        found += [m[0].strip() for m in _ADDRESS.finditer(text)]
        if found:
            yield f"cell {i}: holds {sorted(set(found))}, true on one machine only"


def code_size(nb, root=ROOT):
    """Code cells are short: a screen at most, half of them far less.

    A blank line fills a screen like any other, so it counts for the most, and not for the median.
    Cells are narrow too: beside the sidebars of a laptop, a longer line hides behind a scroll bar.
    """
    sizes = []
    for i, cell in code_cells(nb):
        lines = cell.source.splitlines()
        wide = [line for line in lines if len(line) > MAX_CODE_WIDTH]
        if wide:
            yield f"cell {i}: {len(wide)} lines over {MAX_CODE_WIDTH} characters: {wide[0].strip()}"
        if len(lines) > MAX_CODE_LINES:
            yield f"cell {i}: {len(lines)} lines, blank ones too, more than {MAX_CODE_LINES}"
        sizes.append(sum(1 for line in lines if line.strip()))
    if sizes and statistics.median(sizes) > MAX_MEDIAN_LINES:
        yield f"the median code cell has {statistics.median(sizes)} lines, over {MAX_MEDIAN_LINES}"


def chapter_size(nb, root=ROOT):
    """A chapter fits in one sitting."""
    if not MIN_CELLS <= len(nb.cells) <= MAX_CELLS:
        yield f"{len(nb.cells)} cells; a chapter has {MIN_CELLS} to {MAX_CELLS}"


def figures(nb, root=ROOT):
    """A picture has alt text, a caption and a name. myst-nb repeats them for each rich output."""
    names = []
    for i, cell in code_cells(nb):
        rich = [out for out in cell.outputs if "data" in out]
        if not any(map(is_image, rich)):
            continue
        shown = cell.metadata.get("mystnb", {})
        image, figure = shown.get("image", {}), shown.get("figure", {})
        pages = [out.data.get("text/html", "") for out in rich if is_image(out)
                 and not any(kind.startswith("image/") for kind in out.data)]
        if not all(map(_html_alt, pages)):
            yield f"cell {i}: an <img> without alt, or an <svg> without aria-label or <title>"
        if len(pages) < len(rich) and not str(image.get("alt", "")).strip():
            yield f"cell {i}: no alt text in metadata mystnb.image.alt"
        if not str(figure.get("caption", "")).strip():
            yield f"cell {i}: no caption in metadata mystnb.figure.caption"
        if not str(figure.get("name", "")).startswith("fig-"):
            yield f"cell {i}: metadata mystnb.figure.name must start with 'fig-'"
        elif figure["name"] in names:
            yield f"cell {i}: the figure name {figure['name']} occurs twice"
        names.append(figure.get("name"))
        if len(rich) > 1:
            yield f"cell {i}: {len(rich)} rich outputs under one caption; end with `_ =` or `;`"


def _html_alt(page: str) -> bool:
    images_ok = all(re.search(r"\balt=[\"'][^\"']", tag) for tag in re.findall(r"<img\b[^>]*>", page))
    drawings = re.findall(r"(?s)<svg\b.*?</svg>", page)
    return images_ok and all(re.search(r"aria-label=[\"'][^\"']|<title\b[^>]*>\s*\S", svg)
                             for svg in drawings)


def banned_words(nb, root=ROOT):
    """No word that belittles the reader's work, none that cannot be measured."""
    for i, cell in enumerate(nb.cells):
        text = prose(cell.source if cell.cell_type == "markdown" else captions(cell))
        for word in re.findall(r"(?i)\b(?:simply|just|understand\w*|understood)\b", text):
            yield f"cell {i}: banned word {word!r}"


def labels(source: str) -> list[tuple[str, int]]:
    """(text, position) of each heading, bold label and directive title of a markdown cell."""
    pattern = (r"(?m)^[\s>]*#{1,6}\s+(?P<heading>.+)$|(?:\*\*|__)(?P<bold>[^*_\n]+)(?:\*\*|__)"
               r"|^[\s>]*(?:`{3,}|:{3,})\{[\w-]+\}\s*(?P<title>\S.*)$")
    return [(re.sub(r"^[\d.\s:*_]+", "", m[m.lastgroup]), m.start())
            for m in re.finditer(pattern, source)]


def _has_label(cells, label: str) -> bool:
    return any(re.match(rf"(?i){label}\b", text)
               for cell in cells if cell.cell_type == "markdown" for text, _ in labels(cell.source))


def opening(nb, root=ROOT):
    """Before its first code, a chapter states questions, objectives, minutes, prerequisites."""
    for label in OPENING:
        if not _has_label(nb.cells[:opening_size(nb)], label):
            yield f"the opening has no heading or bold label {label!r}"


def closing(nb, root=ROOT):
    """In its last third, a chapter holds key points, exercises and its limit."""
    for label in CLOSING:
        if not _has_label(nb.cells[len(nb.cells) * 2 // 3:], label):
            yield f"the last third has no heading or bold label {label!r}"


def measurable_objectives(nb, root=ROOT):
    """An objective names what the reader will do: a verb that somebody can watch."""
    for i, cell in markdown_cells(nb)[:opening_size(nb)]:
        parts = [(text, start) for text, start in labels(cell.source)
                 if re.match(rf"(?i)(?:{'|'.join(OPENING)})\b", text)]
        for (text, start), (_, end) in zip(parts, [*parts[1:], ("", len(cell.source))]):
            if re.match(r"(?i)objectives\b", text):
                section = prose(cell.source[start:end])
                for verb in re.findall(r"(?i)\b(?:understand|know|learn)(?:s|ing)?\b", section):
                    yield f"cell {i}: objective with {verb!r}: name what the reader will do"


def numbers_in_prose(nb, root=ROOT):
    """Every numeral in prose, caption or alt text is in an output, in code, in a named result
    file, or cited. What cannot be read as a number or a name is a violation."""
    shared = evidence_of(nb)
    for i, cell in enumerate(nb.cells):
        markdown = cell.cell_type == "markdown"
        source = cell.source if markdown else captions(cell)
        text, cites = prose(source), bool(_CITE.search(source))
        if markdown and i < opening_size(nb):
            text = _without_minutes(text)
        if cites:
            text = _YEAR_OR_DATE.sub(" ", text)
        local = Evidence()
        for file in _RESULT_FILE.findall(source):
            if (root / file).is_file():
                local.add_json(json.loads((root / file).read_text()))
            else:
                yield f"cell {i}: names {file}, which does not exist"
        cited = {_plain(number) for number in cell.metadata.get("cited_numbers", [])}
        if cited and not cites:
            yield f"cell {i}: cited_numbers without a {{cite}} role in the cell"
        stated = numerals(text)
        for unused in sorted(cited - {_plain(numeral) for numeral, _ in stated}):
            yield f"cell {i}: cited_numbers holds {unused}, which the prose does not"
        for numeral, percent in stated:
            if not (cites and _plain(numeral) in cited
                    or shared.supports(numeral, percent) or local.supports(numeral, percent)):
                yield f"cell {i}: number {numeral} is in no output, code, result file or citation"


OUTPUT_RULES = [expected_failures, short_tracebacks, no_warnings, no_machine_paths]
RULES = [executed, strict, recorded, stale, one_machine, known_tags, *OUTPUT_RULES, code_size,
         chapter_size, figures, banned_words, opening, closing, measurable_objectives, numbers_in_prose]


def check(nb, name: str, root: Path = ROOT) -> list[str]:
    """All violations of one notebook, each 'name: [rule] what is wrong'."""
    return [f"{name}: [{rule.__name__}] {violation}"
            for rule in RULES for violation in rule(nb, root)]
