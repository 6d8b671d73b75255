"""The package's order of imports, as README.md lists it, and README's example."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
LAYERS = re.findall(r"(?m)^  (\w+) {2,}", README.split("lorakit/  ")[1].split("tests/  ")[0])


def imported_by(path: Path) -> set[str]:
    """The modules of lorakit that a file imports: {"batch", "kernels", ...}."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "lorakit":
            found |= {alias.name if alias.name in LAYERS else "batch" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lorakit."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {name.name.split(".")[1] for name in node.names if name.name.startswith("lorakit.")}
    return found


def test_readme_lists_every_module():
    files = {path.stem for path in (ROOT / "lorakit").iterdir() if not path.name.startswith("__")}
    assert set(LAYERS) == files


@pytest.mark.parametrize("layer", LAYERS)
def test_a_module_imports_only_from_below(layer):
    files = (ROOT / "lorakit").glob(f"{layer}.py") or []
    files = [*files, *(ROOT / "lorakit" / layer).rglob("*.py")]
    below = set(LAYERS[LAYERS.index(layer) + 1:])
    for path in files:
        own = {layer} if path.stem != layer else set()
        assert imported_by(path) - own <= below, path.name


@pytest.mark.kernels
def test_readmes_example_runs():
    example = re.search(r"```python\n(.*?)```", README, re.S)[1]
    names = {}
    exec(example, names)
    changed = names["y"].abs().sum(dim=1) > 0
    assert changed.tolist() == [True, False, True]
