"""The functions of a chapter's own code cells, so that a test and the chapter cannot drift apart.

Nothing of the notebook runs but its top-level imports, functions and classes, and those of its
assignments that a function needs, directly or through another. A chapter that is used like this
gives such a name once, and a value that is cheap to make.
"""

import ast
import functools
import linecache
import symtable
from pathlib import Path

import nbformat

CHAPTERS = Path(__file__).resolve().parent.parent / "chapters"
DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)


def statements(stem: str) -> list[tuple[str, ast.stmt]]:
    """(source, node) of each top-level statement of the chapter's code cells, in order."""
    found = []
    for cell in nbformat.read(CHAPTERS / f"{stem}.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            lines = cell.source.splitlines()
            for node in ast.parse(cell.source).body:
                first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
                found.append(("\n".join(lines[first - 1:node.end_lineno]), node))
    return found


def function_names(stem: str) -> set[str]:
    """The names of the chapter's top-level functions. Runs nothing, so it needs no GPU."""
    return {node.name for _, node in statements(stem) if isinstance(node, ast.FunctionDef)}


@functools.cache
def functions_of(stem: str) -> dict[str, object]:
    """The namespace that the chapter's definitions make, such as `functions_of(stem)["L3_fails"]`.

    Made once for each chapter. Raises what a needed assignment raises, such as a stream's without
    a GPU.
    """
    every = statements(stem)
    needed = set().union(*(global_names(source) for source, node in every
                           if isinstance(node, DEFINITIONS)))
    chosen: set[int] = set()
    while new := {i for i, (_, node) in enumerate(every) if made_by(node) & needed} - chosen:
        chosen |= new
        needed |= set().union(*(global_names(every[i][0]) for i in new))
    source = "\n\n\n".join(text for i, (text, node) in enumerate(every)
                           if i in chosen or isinstance(node, DEFINITIONS))
    name = f"<{stem}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    namespace = {"__name__": stem}
    exec(compile(source, name, "exec"), namespace)
    return namespace


def made_by(node: ast.stmt) -> set[str]:
    """The names that an assignment gives; none for any other statement."""
    targets = node.targets if isinstance(node, ast.Assign) else (
        [node.target] if isinstance(node, ast.AnnAssign) and node.value else [])
    return {part.id for target in targets for part in ast.walk(target)
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}


def global_names(source: str) -> set[str]:
    """The names that a statement looks up at the top level, from inside its functions too."""
    def walk(table: symtable.SymbolTable) -> set[str]:
        own = {s.get_name() for s in table.get_symbols()
               if s.is_referenced() and (table.get_type() == "module" or s.is_global())}
        return own.union(*map(walk, table.get_children()))
    return walk(symtable.symtable(source, "cell", "exec"))
