"""Checkers for the exercises of *A CUDA graph in thirty lines of Python*."""

import contextlib
import io
from collections.abc import Callable

import torch

from lorakit.capture.recorder import Recorder
from book.exercises.common import batches

PROGRAMS = {
    "A": """x, n = torch.ones(1), 2
with graph.capture():
    n = n + 1
    y = x * n
n = 10
x.fill_(5)
graph.replay()
print(int(y), n)""",
    "B": """total = torch.zeros(1)
with graph.capture():
    total += 1
    seen = total * 10
graph.replay()
graph.replay()
print(int(total), int(seen))""",
    "C": """total = torch.zeros(1)
with graph.capture():
    total = total + 1
graph.replay()
graph.replay()
print(int(total))""",
}


def check_predictions(**answers: str) -> None:
    """*A CUDA graph in thirty lines of Python*: what three programs print."""
    for name, program in PROGRAMS.items():
        said, graph = io.StringIO(), Recorder()
        with contextlib.redirect_stdout(said):
            exec(program, {"torch": torch, "graph": graph})
        kept = ", ".join(f"{c.op.removeprefix('aten.')} {c.scalars or ''}".strip() for c in graph.calls)
        assert str(answers.get(name)).split() == said.getvalue().split(), (
            f"program {name} does not print {answers.get(name)!r}: its list holds {kept}")
    print("passed")


def check_scale_rows(scale_rows: Callable[..., None]) -> None:
    """*A CUDA graph in thirty lines of Python*: right in every replay, whatever it was captured with."""
    for captured in ([2, 0, 1], [-1] * 8, [3, 3, 0, 1, 2, 2, 1, 0]):
        slots, x = torch.full((12,), -1, dtype=torch.int32), torch.ones(12, 2)
        scalings, y = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.zeros(12, 2)

        def write(batch: list[int], step: int) -> torch.Tensor:
            """A new batch into the same memory; returns what y must become."""
            slots.fill_(-1)
            slots[:len(batch)].copy_(torch.tensor(batch, dtype=torch.int32))
            scalings.copy_(torch.tensor([1.0, 2.0, 4.0, 8.0]) * (1 + step % 3))
            x.copy_(torch.arange(24.0).view(12, 2) + step)
            y.fill_(step)
            own = [scalings[s].item() if s >= 0 else 0.0 for s in slots.tolist()]
            return y + x * torch.tensor(own)[:, None]

        graph = Recorder()
        expected = write(captured, 1)
        scale_rows(x, slots, scalings, y)
        assert torch.equal(y, expected), (
            f"slots {captured}, without a graph: row {first(y, expected)} of y is wrong")
        write(captured, 1)
        with graph.capture():
            scale_rows(x, slots, scalings, y)
        for step, batch in enumerate(batches()):
            expected = write(batch, step)
            graph.replay()
            assert torch.equal(y, expected), (f"captured with slots {captured}, replayed for {batch}: "
                                              f"row {first(y, expected)} of y is wrong")
    print("passed")


def first(found: torch.Tensor, expected: torch.Tensor) -> int:
    """The first row that differs."""
    return next(i for i, pair in enumerate(zip(found.tolist(), expected.tolist()))
                if pair[0] != pair[1])


def check_external(external: Callable[[list[tuple]], set[int]]) -> None:
    """*A CUDA graph in thirty lines of Python*: the memory that a recording did not make."""
    x, w, out, flag = torch.ones(4), torch.ones(4), torch.zeros(4), torch.zeros(1)

    def with_views() -> None:
        out[0:2].copy_(x[2:4])

    def in_place_on_its_own() -> None:
        h = x * 2
        h.add_(w)
        out.copy_(h)

    def an_own_buffer() -> None:
        h = torch.empty(4)
        h[1:3].fill_(3)
        torch.add(h, w, out=out)

    def read_late() -> None:
        h = x + 1
        out.copy_(torch.cat([h, h])[2:6])
        out.mul_(flag)

    for block in (lambda: x * 2, with_views, in_place_on_its_own, an_own_buffer, read_late):
        graph = Recorder()
        with graph.capture():
            block()
        trace = [(call.op, [m.place for m in call.given], [m.place for m in call.results])
                 for call in graph.calls]
        wanted = {m.place for call in graph.calls for m in call.given + call.results if m.address}
        found = set(external(list(trace)))
        assert found == wanted, f"trace {trace}: expected {wanted}, got {found}"
    print("passed")
