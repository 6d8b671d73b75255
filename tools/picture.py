"""Takes the picture of README.md and intro.md out of the chapter that recorded it.

    python tools/picture.py            writes _static/gap.png; `make notebooks` runs it
"""

import base64
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
CHAPTER, FIGURE = "chapters/26_the_seg_indptr_sync_bug.ipynb", "fig-gap"
PICTURE = ROOT / "_static" / "gap.png"


def recorded() -> bytes:
    """The PNG that the figure's cell holds as its output."""
    for cell in nbformat.read(ROOT / CHAPTER, as_version=4).cells:
        if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == FIGURE:
            images = [out.data["image/png"] for out in cell.outputs if "image/png" in out.get("data", {})]
            return base64.b64decode(images[0])
    raise LookupError(f"{CHAPTER} has no figure {FIGURE}")


if __name__ == "__main__":
    PICTURE.write_bytes(recorded())
    print(f"wrote {PICTURE.relative_to(ROOT)}")
