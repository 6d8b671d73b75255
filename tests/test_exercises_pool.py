"""The checkers of *Right text, wrong numbers* pass the solution and refuse wrong answers; and the page's
servers do what the page says, on a toy pool of the CPU's."""

from types import SimpleNamespace

import pytest
import torch

from book import detective, exercises
from book.exercises.pool import in_memory
from chapter_functions import functions_of
from lorakit import slots_to_device

pytest.importorskip("triton", reason="Triton is published for Linux only")  # the page imports it
PAGE = functions_of("310_right_text_wrong_numbers")
CPU = torch.device("cpu")
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the real pool is tested")


# -- a toy: captures that share memory as in PyTorch's pool ------------------------------------------------

class ToyPool:
    """One buffer of rows. A capture takes the first free rows for its output, and twice as many behind it
    for temporaries, which every replay fills with ones."""

    def __init__(self):
        self.rows, self.captured = torch.zeros(256, detective.OUT, dtype=detective.DTYPE), []

    def capture(self, fn):
        value = fn()
        held = [range(made.first, made.first + made.size) for made in self.captured
                if made.result is not None]
        first = next(row for row in range(256) if not any(
            set(range(row, row + 3 * len(value))) & set(span) for span in held))
        out = self.rows[first:first + len(value)]

        def replay():
            value = fn()
            self.rows[first + len(value):first + 3 * len(value)] = 1
            out.copy_(value)

        made = SimpleNamespace(graph=SimpleNamespace(replay=replay), result=out, error=None, first=first,
                               size=len(value))
        self.captured.append(made)
        return made


@pytest.fixture
def toy(monkeypatch):
    """The page's names, with graphs that need no GPU, and a layer that needs no interpreter."""
    def forward(layer, slots):
        return layer.lora_b[slots.clamp(min=0).long(), :, 0] * (slots >= 0)[:, None]

    monkeypatch.setitem(PAGE, "forward", forward)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", ToyPool)
    monkeypatch.setitem(PAGE, "attempt", lambda fn, pool=None: (pool or ToyPool()).capture(fn))
    monkeypatch.setitem(PAGE, "Weak", lambda tensor: tensor)
    return PAGE


def served(server, prompt):
    text, logprobs = server.serve(slots_to_device(prompt, 4, CPU))
    return detective.read(text), detective.read(logprobs)


@NO_GPU
def test_the_broken_server_gives_the_drafts_rows_up_to_its_limit(toy):
    server = toy["Broken"]()
    assert served(server, [0, 1, 2, 3]) == ([40], [1, 2, 3, 4])
    assert served(server, [3] * 8 + [1]) == ([20], [40] * 8 + [20])
    assert served(toy["Broken"](limit=4), [0, 1, 2, 3, 0]) == ([10], [10, 20, 30, 40, 10])
    assert served(toy["Broken"](requests=3), [1] * 8) == ([20], [2] * 8)


@NO_GPU
@pytest.mark.parametrize("name", ["Fixed", "Apart"])
def test_a_repaired_server_is_right(toy, name):
    server = toy[name]()
    for tokens in (1, 8, 9):
        prompt = [token % 4 for token in range(tokens)]
        assert served(server, prompt) == (detective.expected(prompt[-1:]), detective.expected(prompt))


@NO_GPU
def test_the_regression_test_is_red_and_green(toy):
    with pytest.raises(AssertionError, match="1 tokens"):
        toy["regression_test"](toy["Broken"])
    toy["regression_test"](toy["Fixed"])
    with pytest.raises((AssertionError, ValueError)):
        toy["regression_test"](toy["Turned"])


def late_clone(Broken):  # a copy, of what the draft left
    class Late(Broken):
        def serve(self, slots):
            text, logprobs = super().serve(slots)
            return text.clone(), logprobs.clone()
    return Late


def late_reference(Broken):  # holds the output, and took hold of it after the draft's capture
    class Late(Broken):
        def __init__(self, **knobs):
            super().__init__(**knobs)
            self.target.captured.result = self.hidden
    return Late


def in_time(Broken):  # right: a copy before the draft
    class InTime(Broken):
        def serve(self, slots):
            if len(slots) > self.limit:
                return super().serve(slots)
            self.target.replay(slots)
            hidden = self.hidden[:len(slots)].clone()
            self.draft.replay(slots)
            return hidden[-1:], hidden
    return InTime


def own_pool(Broken):  # right
    class Own(Broken):
        def __init__(self, limit=8, requests=2, guesses=3):
            super().__init__(limit, requests, guesses)
            self.draft = PAGE["Model"](10, requests * (guesses + 1), None)
    return Own


def views(Broken):  # right at once, and the next prompt overwrites it: S10
    class Views(in_time(Broken)):
        def serve(self, slots):
            text, logprobs = super().serve(slots)
            self.kept = getattr(self, "kept", torch.zeros_like(logprobs[:1].expand(64, -1)))
            self.kept[:len(logprobs)].copy_(logprobs)
            return text, self.kept[:len(logprobs)]
    return Views


def synchronised(Broken):
    class Waiting(Broken):
        def serve(self, slots):
            outputs = super().serve(slots)
            if slots.is_cuda:
                torch.cuda.synchronize()
            return outputs
    return Waiting


RIGHT = [lambda broken: PAGE["Fixed"], in_time, own_pool]
WRONG = [lambda broken: broken, lambda broken: PAGE["Turned"], late_clone, late_reference, views, synchronised]


@NO_GPU
@pytest.mark.parametrize("repair", RIGHT)
def test_a_right_repair_passes_on_the_toy(repair, toy, capsys):
    exercises.check_pool(repair(toy["Broken"]))
    assert capsys.readouterr().out == "passed\n"


@NO_GPU
@pytest.mark.parametrize("repair", WRONG)
def test_a_wrong_repair_is_refused_on_the_toy(repair, toy, capsys):
    with pytest.raises(AssertionError, match="when all prompts have been served"):
        exercises.check_pool(repair(toy["Broken"]))
    assert capsys.readouterr().out == ""


@pytest.mark.gpu
@pytest.mark.parametrize("repair", RIGHT)
def test_a_right_repair_passes(repair, capsys):
    exercises.check_pool(repair(PAGE["Broken"]))
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.gpu
@pytest.mark.parametrize("repair", WRONG)
def test_a_wrong_repair_is_refused(repair):
    with pytest.raises(AssertionError, match="when all prompts have been served"):
        exercises.check_pool(repair(PAGE["Broken"]))


@pytest.mark.gpu
def test_a_right_server_that_waits_is_refused():
    with pytest.raises(AssertionError, match="the host waits"):
        exercises.check_pool(synchronised(PAGE["Fixed"]))


@pytest.mark.gpu
def test_a_right_server_without_graphs_is_refused():
    class Eager(PAGE["Fixed"]):
        def serve(self, slots):
            hidden = PAGE["forward"](self.target.layer, slots)
            return hidden[-1:].clone(), hidden.clone()
    with pytest.raises(AssertionError, match="both models stay graphs"):
        exercises.check_pool(Eager)


# -- the detector ------------------------------------------------------------------------------------------

def first_bytes(plan, writes):  # finds the page's server, and no temporary
    wrong, since = [], {}
    for place, (what, name, *span) in enumerate(plan):
        if what == "replay":
            for others in since.values():
                others.extend(first for first, _ in writes[name])
            since[name] = []
        elif span[0][0] in since[name]:
            wrong.append(place)
    return wrong


def inclusive(plan, writes):  # neighbours are taken for one
    return PAGE["wrong_reads"](plan, {name: [(first, end + 1) for first, end in spans]
                                      for name, spans in writes.items()})


def for_ever(plan, writes):  # forgets that a new replay makes it right
    wrong, written = [], {}
    for place, (what, name, *span) in enumerate(plan):
        if what == "replay":
            written.setdefault(name, [])
            for other, spans in written.items():
                spans.extend(writes[name] if other != name else [])
        elif any(first < span[0][1] and span[0][0] < end for first, end in written[name]):
            wrong.append(place)
    return wrong


def in_capture_order(plan, writes):  # PyTorch's older condition, taken for a detector
    names, last = list(writes), -1
    for what, name, *_ in plan:
        if what == "replay":
            if names.index(name) < last:
                return [place for place, event in enumerate(plan) if event[0] == "read"]
            last = names.index(name)
    return []


def last_writer(plan, writes):  # any later replay counts, also one that writes elsewhere
    wrong, last = [], None
    for place, (what, name, *_) in enumerate(plan):
        if what == "replay":
            last = name
        elif name != last:
            wrong.append(place)
    return wrong


def test_the_detector_passes(capsys):
    exercises.check_wrong_reads(PAGE["wrong_reads"])
    exercises.check_wrong_reads(in_memory_of_48)
    assert capsys.readouterr().out == "passed\n" * 2


def in_memory_of_48(plan, writes):
    return in_memory(plan, writes)


@pytest.mark.parametrize("answer, message", [
    (first_bytes, "was not found"), (inclusive, "was called wrong"), (for_ever, "was called wrong"),
    (in_capture_order, "is wrong, and|is right, and"), (last_writer, "was called wrong"),
    (lambda plan, writes: None, "not a list")])
def test_a_wrong_detector_is_refused(answer, message, capsys):
    with pytest.raises(AssertionError, match=message):
        exercises.check_wrong_reads(answer)
    assert capsys.readouterr().out == ""
