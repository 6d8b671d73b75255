"""Executes chapters in fresh kernels and writes their outputs, with a record of what ran them.

    python tools/record.py [--cpu] [notebooks...]      (default: chapters/*.ipynb)

A notebook is written whole or not at all. The outputs are made stable, so that a second
recording changes only what was measured. `--cpu` makes a draft: cells tagged `gpu` stay empty,
and the tests refuse the result.
"""

import argparse
import contextlib
import json
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools import notebook_rules as rules

CELL_TIMEOUT_S = 300
DESCRIBE = "import json, lorakit.runtime\nprint(json.dumps(lorakit.runtime.describe()))"


class Refused(Exception):
    """The notebook cannot be recorded; the message says why and where."""


def run_cells(nb, folder: Path, draft: bool) -> dict[str, str]:
    """Executes `nb` in place, with its folder as the working directory, as nbval does.

    Returns what lorakit.runtime.describe() says in the same kernel after the last cell.
    """
    client = NotebookClient(nb, kernel_name="python3", timeout=CELL_TIMEOUT_S, record_timing=False,
                            store_widget_state=False, extra_arguments=["--log-level=ERROR"],
                            resources={"metadata": {"path": str(folder)}})
    count = 0
    with running_kernel(client):
        for i, cell in enumerate(nb.cells):
            if cell.cell_type != "code":
                continue
            cell.outputs, cell.execution_count = [], None
            cell.metadata.pop("recorded", None)
            if draft and "gpu" in rules.tags(cell):
                continue
            where = f"cell {i} ({(cell.source.strip().splitlines() or [''])[0]})"
            try:
                client.execute_cell(cell, i)
            except CellExecutionError as error:
                trace = re.sub(r"\x1b\[[\d;]*m", "", error.traceback).strip()
                raise Refused(f"{where}: {error.ename}: {error.evalue}\n{trace}") from None
            except (CellTimeoutError, DeadKernelError) as error:
                reason = str(error).strip().splitlines()[0]
                raise Refused(f"{where}: {type(error).__name__}: {reason}") from None
            count += 1
            normalise(cell, count)
            wrong = list(rules.expected_failures(nbformat.v4.new_notebook(cells=[cell])))
            if wrong:
                raise Refused(f"{where}: {wrong[0].removeprefix('cell 0: ')}")
        probe = nbformat.v4.new_code_cell(DESCRIBE)
        nb.cells.append(probe)
        try:
            client.execute_cell(probe, len(nb.cells) - 1, store_history=False)
        except CellExecutionError as error:
            raise Refused(f"lorakit.runtime.describe(): {error.ename}: {error.evalue}") from None
        # A line may come in two pieces, if the kernel sends its output in between.
        return json.loads("".join(output.text for output in nb.cells.pop().outputs
                                  if output.get("name") == "stdout"))


def running_kernel(client):
    """The client's kernel as a context. Kernels that start at once may choose one port: try again."""
    for _ in range(3):
        stack = contextlib.ExitStack()
        try:
            stack.enter_context(client.setup_kernel())
            return stack
        except RuntimeError as error:
            reason = str(error)
    raise Refused(f"no kernel could be started: {reason}")


def normalise(cell, count: int):
    """Numbers the cell, merges its streams, reduces its errors to one line, drops timing."""
    cell.execution_count = count
    cell.metadata.pop("execution", None)
    merged = []
    for out in cell.outputs:
        if out.output_type == "stream" and merged and merged[-1].get("name") == out.name:
            merged[-1].text += out.text
            continue
        if out.output_type == "execute_result":
            out.execution_count = count
        if out.output_type == "error":
            out.traceback = [f"{out.ename}: {out.evalue}"]
        merged.append(out)
    cell.outputs = merged


def record(path: Path, draft: bool):
    """Executes the notebook at `path` and writes it, or raises Refused and leaves it as it was."""
    if not path.is_file():
        raise Refused("no such file")
    nb = nbformat.read(path, as_version=4)
    machine = run_cells(nb, path.resolve().parent, draft)
    if machine["device"] == "CPU" and not draft:
        raise Refused("the kernel saw no GPU")
    for _, cell in rules.code_cells(nb):
        if cell.execution_count is not None:
            cell.metadata["recorded"] = {"source": rules.source_hash(cell.source), **machine}
    nb.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
                   "language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    nb.nbformat, nb.nbformat_minor = 4, 5
    places = [str(place) for place in (ROOT, Path.home()) if len(str(place)) > 1]
    wrong = [*rules.short_tracebacks(nb), *rules.no_warnings(nb),
             *rules.no_machine_paths(nb, also=places)]
    if wrong:
        raise Refused("\n  ".join(["the outputs cannot be published:", *wrong]))
    nbformat.validate(nb)
    temporary = path.with_name(f".{path.name}.tmp")
    nbformat.write(nb, temporary)  # sorted keys, indent 1, a newline at the end
    os.replace(temporary, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--cpu", action="store_true", help="a draft, without the cells tagged gpu")
    args = parser.parse_args()
    if args.cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import torch
    if not args.cpu and not torch.cuda.is_available():
        print("record: no CUDA GPU here, and chapters are recorded on one (--cpu makes a draft)")
        return 1
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")  # matplotlib dates its SVG files by it
    try:
        import matplotlib.font_manager  # builds the font cache here, not on a cell's stderr
    except ImportError:
        pass
    paths = args.notebooks or sorted((ROOT / "chapters").glob("*.ipynb"))
    failed = 0 if paths else 1
    if not paths:
        print("record: no chapters/*.ipynb")
    for path in paths:
        start = time.perf_counter()
        try:
            print(f"{path.name}: recording ...", flush=True)
            record(path, args.cpu)
        except Refused as reason:
            failed += 1
            print(f"{path.name}: NOT recorded, file unchanged: {reason}", flush=True)
            continue
        cells = len(nbformat.read(path, as_version=4).cells)
        print(f"{path.name}: {cells} cells in {time.perf_counter() - start:.1f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
