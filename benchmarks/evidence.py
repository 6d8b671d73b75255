"""What every result file says beside its numbers, so that a reader can weigh them."""

import datetime
import hashlib
import json
import os
import subprocess
from pathlib import Path

import torch

from lorakit import runtime

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def sources_hash() -> str:
    """The first 16 hex digits of a sha256 over the package and the benchmarks: what was run."""
    digest = hashlib.sha256()
    for path in sorted([*ROOT.glob("lorakit/**/*.py"), *ROOT.glob("benchmarks/*.py")]):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def commit() -> str:
    """`COMMIT` from the environment, for a copy without its history, else the commit checked out."""
    if "COMMIT" in os.environ:
        return os.environ["COMMIT"]
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def provenance(**settings: object) -> dict:
    """The device, its driver, the versions, the code and the date; `settings` of the measurement."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    except OSError:
        driver = ""
    described = runtime.describe()
    return {"gpu": described.pop("device"), "driver": driver or "unknown", **described,
            "cuda": torch.version.cuda, "commit": commit(), "sources": sources_hash(),
            "date": datetime.date.today().isoformat(), **settings}


def write(name: str, cases: list[dict], **settings: object) -> Path:
    """Write `benchmarks/results/<name>.json`: provenance and one row a case."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    rows = ",\n  ".join(json.dumps(case) for case in cases)
    path.write_text('{\n "provenance": ' + json.dumps(provenance(**settings), indent=2)
                    + ',\n "cases": [\n  ' + rows + "\n ]\n}\n")
    return path
