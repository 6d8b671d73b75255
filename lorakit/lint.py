"""`python -m lorakit.lint package.module:function --args factory`: `capture.lint` from a shell.

Ends with status 0 if a capture would take the function, 1 if it would refuse it, 2 for bad
arguments, 3 if the function or the second factory fails.
"""

import argparse
import importlib
import sys
import traceback
from collections.abc import Callable

from lorakit.capture import lint


def main(argv: list[str] | None = None) -> int:
    """Lint one function of an importable module, print the report, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lorakit.lint", description=(
        "Find, without a GPU, what a CUDA graph of a function would refuse or freeze."))
    parser.add_argument("function", help="package.module:function, importable from here")
    parser.add_argument("--args", metavar="FACTORY", help=(
        "a function that returns the arguments, CPU tensors that stand for device tensors, one or "
        "a tuple; module:function, or the name of one in the same module"))
    parser.add_argument("--other", metavar="FACTORY", help=(
        "the same for a second batch: then what a graph would freeze is found as well"))
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    given = parser.parse_args(argv)
    module = given.function.partition(":")[0]
    try:
        fn = find(given.function)
        args, other = (factory and find(factory, module) for factory in (given.args, given.other))
        args = as_tuple(args()) if args else ()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        parser.error(f"{type(error).__name__}: {error}")
    try:
        report = lint(fn, *args, other=other and (lambda: as_tuple(other())))
    except Exception:
        traceback.print_exc()
        return 3
    print(report.to_json() if given.json else report)
    return 1 if report.breaks else 0


def find(name: str, module: str | None = None) -> Callable:
    """The callable that 'package.module:name' or 'package.module:Class.name' stands for.

    Raises:
        ImportError, AttributeError: if there is none. TypeError: if it cannot be called.
        ValueError: if the name has no module.
    """
    place, colon, attribute = name.rpartition(":")
    if not colon and module is None:
        raise ValueError(f"expected package.module:function, got {name!r}")
    found = importlib.import_module(place or module)
    for part in attribute.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{name} must be callable, got {type(found).__name__}")
    return found


def as_tuple(args: object) -> tuple:
    return args if isinstance(args, tuple) else (args,)


if __name__ == "__main__":
    sys.exit(main())
