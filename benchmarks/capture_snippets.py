"""What a capture does with each of some 1,090 snippets, and what `lint` says of them without a GPU.

`python -m benchmarks.capture_snippets` tries them on a GPU and writes `results/capture_snippets.json`.
The sets in `capture_snippets.json` beside this file: the *sample* is the rows that the project began
with, and from *development* the rules of `lorakit.capture.checker.waits` were written. The authors of
the others did not see the tool. It was judged by each once, as FIRST_LOOK says; what it had got wrong was
then mended by rule, before the next was written.
"""

import json
import math
import subprocess
import sys
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F

from lorakit.capture import Host, LintReport, attempt, lint

HERE = Path(__file__).resolve().parent
SETS: dict[str, list[str]] = json.loads((HERE / "capture_snippets.json").read_text())
FIRST_LOOK = {"held out": (306, 309), "final": (177, 192), "unseen": (149, 150)}  # agreed, of how many that ran
ON_DEVICE = "x n idx mask m w ids big h zero one lin emb cuda0".split()
ON_HOST = "c0 c1 cidx cmask cw cpu0 cpu0s".split()
MASK = [True, False, True, False, True, True]


def tensors(which: str, device: str) -> dict[str, object]:
    """The names that a snippet of a set may use, but for a stream and an event. All made anew."""
    torch.manual_seed(0)
    square = torch.randn(6, 6, device=device)
    n = torch.tensor([2, 0, 1, 3, 1, 2], dtype=torch.int32, device=device)
    sample = which == "sample"
    return {
        "x": n.clone() if sample else torch.arange(6.0, device=device), "n": n,
        "idx": torch.tensor([0, 2, 4], device=device), "mask": torch.tensor(MASK, device=device),
        "m": torch.randn(4, 6, device=device), "w": square @ square.T + 6 * torch.eye(6, device=device),
        "ids": torch.tensor([[1, 2, 0], [3, 1, 2]], device=device),
        "big": torch.randn(8, 5000, device=device), "h": torch.randn(4, 6, device=device).half(),
        "zero": torch.tensor(0.0, device=device), "one": torch.tensor(1, device=device),
        "lin": torch.nn.Linear(6, 6, device=device), "emb": torch.nn.Embedding(4, 6, device=device),
        "cuda0": torch.tensor(0, dtype=n.dtype, device=device),
        "c0": torch.tensor(2.0), "c1": torch.arange(6.0), "cidx": torch.tensor([0, 2, 4]),
        "cmask": torch.tensor(MASK), "cw": torch.randn(6, 6), "cpu0": torch.tensor(0, dtype=n.dtype),
        "cpu0s": torch.zeros(1, dtype=n.dtype),
        "pin": torch.zeros(1, dtype=n.dtype) if sample else torch.arange(6.0),
    }


def step_of(code: str, first: str, **names: object) -> object:
    """A function of the device tensors and `pin` that runs the snippet."""
    source = "\n    ".join([f"def step({', '.join(ON_DEVICE)}, pin, k=2):", first, *code.splitlines()])
    names |= {"torch": torch, "F": F, "math": math, "vals": [1.0, 2.0, 3.0], "print": lambda *a, **_: [*map(str, a)]}
    exec(compile(source, "a snippet", "exec"), names)
    return names["step"]


def linted(which: str, code: str) -> LintReport:
    """What `lint` says of a snippet."""
    names = tensors(which, "cpu")
    step = step_of(code, "side, ev = torch.cuda.Stream(), torch.cuda.Event()",
                   **{name: names[name] for name in ON_HOST})
    return lint(step, *(names[name] for name in ON_DEVICE), Host(names["pin"], pinned=True))


def agrees(row: dict[str, object]) -> bool:
    """True if `lint` says of a row of the results what the GPU did. False if it fails."""
    try:
        return (not linted(row["set"], row["code"]).breaks) == row["captured"]
    except Exception:  # what a CPU cannot run at all
        return False


def tried(which: str, code: str, side: torch.cuda.Stream) -> dict[str, object]:
    """What the GPU does with a snippet: eagerly, in sync debug mode, in a capture. Synchronises."""
    def fresh():
        names = tensors(which, "cuda") | {"side": side, "ev": torch.cuda.Event()}
        step = step_of(code, "pass", **{name: names[name] for name in (*ON_HOST, "side", "ev")})
        args = [names[name] for name in ON_DEVICE] + [names["pin"].pin_memory()]
        torch.cuda.synchronize()
        return lambda: step(*args)

    row = {"set": which, "code": code}
    try:
        fresh()()
        again = fresh()
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as said, torch.cuda.stream(torch.cuda.Stream()):
            warnings.simplefilter("always")
            again()
    except Exception as error:  # it needs another version, or mixes devices: no question of capture
        return row | {"not_run": f"{type(error).__name__}: {error}".splitlines()[0][:100]}
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
    seen = attempt(fresh())
    return row | {"captured": seen.graph is not None, "rule": seen.rule,
                  "error": seen.error and seen.error[:100],
                  "sync_debug": any("called a synchronizing" in str(w.message) for w in said)}


def work(start: int) -> None:
    """Try the snippets from the start-th on, one JSON line each, as far as this process lives."""
    side = torch.cuda.Stream()
    for i, (which, code) in list(enumerate(all_snippets()))[start:]:
        print(json.dumps({"next": i}), flush=True)
        print(json.dumps(tried(which, code, side)), flush=True)


def all_snippets() -> list[tuple[str, str]]:
    return [(which, code) for which, codes in SETS.items() for code in codes]


def main() -> None:
    from benchmarks import evidence  # not needed by the tests
    cases, start = [], 0
    while start < len(all_snippets()):  # a snippet may leave the process unusable: go on in another
        worker = subprocess.run([sys.executable, "-m", "benchmarks.capture_snippets", str(start)],
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        rows = [json.loads(line) for line in worker.stdout.splitlines()]
        cases += [row for row in rows if "code" in row]
        if worker.returncode and "code" not in rows[-1]:
            which, code = all_snippets()[rows[-1]["next"]]
            cases.append({"set": which, "code": code, "not_run": "the process died"})
        start = len(cases)
    print(evidence.write("capture_snippets", cases, repeats=1))
    for which in SETS:
        rows = [row for row in cases if row["set"] == which and "captured" in row]
        agree = sum(map(agrees, rows))
        mode = sum(row["sync_debug"] != row["captured"] for row in rows)
        print(f"{which:12} {len(rows):4} ran, {sum(row['captured'] for row in rows):4} captured; "
              f"lint agrees on {agree}, sync debug mode on {mode}")


if __name__ == "__main__":
    work(int(sys.argv[1])) if len(sys.argv) > 1 else main()
