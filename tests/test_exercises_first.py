"""Checkers of *Whoever came first*, against the page's own servers.

Without a GPU a stand-in does what Triton does: it builds the number 1 into a variant, and the
interpreter runs that. There are no graphs then; the fault needs none.
"""

from types import SimpleNamespace

import pytest
import torch

from book import cases, exercises, figures
from chapter_functions import functions_of
from lorakit import runtime

PAGE = "304_whoever_came_first"
pytestmark = pytest.mark.kernels  # the page uses the routing kernel


class Variant:
    """A compiled kernel: it takes all arguments, and ignores those that were built in."""

    def __init__(self, kernel, constants):
        self.kernel, self.constants = kernel, constants

    def __getitem__(self, grid):
        def launch(*args):
            given = [self.constants.get(place, value) for place, value in enumerate(args)]
            self.kernel[grid](*given)
        return launch


class Specialising:
    """A kernel that compiles a variant for the number 1, but for the arguments that it is told."""

    def __init__(self, kernel, do_not_specialize=()):
        self.kernel, names = kernel, kernel.fn.__code__.co_varnames
        self.places = [names.index(name) for name in ("num_tokens", "max_loras")
                       if name not in do_not_specialize]

    def __getitem__(self, grid):
        def launch(*args, num_warps):
            compiled = Variant(self.kernel, {place: 1 for place in self.places if args[place] == 1})
            compiled[grid](*args)
            return compiled
        return launch


def lora_token_by_token(x, layer, batch, out):
    """`lora_linear`, faster than the interpreter. Adds into out."""
    bounds, places = batch.seg_indptr.tolist(), batch.permutation.tolist()
    for segment, slot in enumerate(batch.weight_indices.tolist()):
        for token in places[bounds[segment]:bounds[segment + 1]]:
            delta = layer.lora_b[slot].float() @ (layer.lora_a[slot, 0].float() @ x[token].float())
            out[token] += delta.to(out.dtype)
    return out


@pytest.fixture
def interpreted(monkeypatch):
    functions = functions_of(PAGE)
    if runtime.device().type != "cuda":
        def eager(step):
            return SimpleNamespace(graph=SimpleNamespace(replay=step))

        kernel = functions["careless"]
        monkeypatch.setitem(functions, "attempt", eager)
        monkeypatch.setattr(functions["Broken"], "kernel", Specialising(kernel))
        monkeypatch.setattr(functions["Fixed"], "kernel",
                            Specialising(kernel, ("num_tokens", "max_loras")))
    return functions


@pytest.fixture
def page(interpreted, monkeypatch):
    if runtime.device().type != "cuda":
        monkeypatch.setitem(interpreted, "lora_linear", lora_token_by_token)
    return interpreted


def warmed_up(page):
    """The tempting repair: a small batch of four adapters is launched at the start."""
    class Server(page["Broken"]):
        def __init__(self, graphs=True):
            super().__init__(graphs)
            self.route(8, 4)
    return Server


@pytest.mark.parametrize("name", ["Fixed", "LongKey", "AllSlots"])
def test_right_servers_pass(page, name, capsys):
    exercises.check_first(page[name])
    page["regression_test"](page[name])
    assert capsys.readouterr().out == "passed\n"


def test_the_fault_is_refused(page):
    with pytest.raises(AssertionError, match=r"first batch \[2\]: batch 1, .*got \[30, 0, 0, 0\], not"):
        exercises.check_first(page["Broken"])
    with pytest.raises(AssertionError, match=r"first \[2\]: \[2, 0, 1, 3\] got \[30, 0, 0, 0\]"):
        page["regression_test"](page["Broken"])


def test_the_naive_test_passes_it(page):
    page["naive_test"](page["Broken"])


def test_a_warm_up_of_one_size_is_refused(page):
    server = warmed_up(page)
    page["naive_test"](server)
    with pytest.raises(AssertionError, match=r"first batch \[1, 1, 1, .*got \["):
        exercises.check_first(server)
    with pytest.raises(AssertionError, match=r"first \[1, 1, 1, "):
        page["regression_test"](server)


def test_a_server_that_keeps_nothing_is_refused(page):
    page["regression_test"](page["KeepsNothing"])
    with pytest.raises(AssertionError, match="right, but Triton was asked for a variant in 22 of 22"):
        exercises.check_first(page["KeepsNothing"])


def test_the_order_of_tests_on_a_shared_cache_decides(page):
    page["Shared"].common.clear()
    page["test_one"]()
    with pytest.raises(AssertionError):
        page["test_four"]()
    page["Shared"].common.clear()
    page["test_four"]()
    page["test_one"]()
    page["Shared"].common.clear()


def test_the_detector_finds_the_two_sizes(page):
    batches = [[2], [2, 0], [1] * 12, [0, 1] * 6]
    found = page["remembers"](lambda: page["Broken"](graphs=False), batches)
    assert found == [([2], [2, 0]), ([1] * 12, [0, 1] * 6)]
    assert page["remembers"](lambda: page["Fixed"](graphs=False), batches) == []


def test_the_case_is_a_function_of_the_number_of_its_batch(page):
    """And its twin computes what the reference does."""
    layer, table = page["detective"].weights(4), (page["detective"].ranks(4), page["detective"].scalings(4))
    for i in range(5):
        held = cases.Held(runtime.device())
        slots, loras, _ = page["make_inputs"](i, held)
        assert slots.tolist() == page["make_inputs"](i, held)[0].tolist() and max(slots.tolist()) < loras
        twin = page["step_of"](page["Fixed"])(slots, loras, held)
        assert torch.equal(twin, page["step_of"](page["AllSlots"])(slots, loras, held))
        assert page["detective"].read(twin) == page["detective"].expected(slots.tolist())
        routed = page["route_by_adapter_torch"](slots, *table)
        right = page["lora_linear"](page["detective"].tokens(8), layer, routed, page["detective"].nothing(8))
        assert torch.equal(right, twin)


def test_the_step_of_the_case_is_wrong_after_its_first_batch(interpreted):
    page = interpreted
    held, step = cases.Held(runtime.device()), page["step_of"](page["Broken"])
    read = [page["detective"].read(step(*page["make_inputs"](i, held))) for i in (0, 1)]
    assert read == [[10] * 8, [10, 0, 0, 0] * 2]


@pytest.mark.parametrize("name, verdict", [
    ("Broken", cases.CAUGHT), ("Fixed", cases.CAUGHT), ("AllSlots", cases.SILENT)])
def test_lint_sees_the_number_that_changes_whoever_keeps_it(name, verdict):
    page = functions_of(PAGE)
    case = cases.Case("a kept kernel", "S15", "", page["step_of"](page["Broken"]),
                      page["step_of"](page[name]), page["make_inputs"])
    assert cases.linted(case, fixed=True) == verdict


@pytest.mark.gpu
def test_a_compiled_kernel_tells_its_constants():
    page = functions_of(PAGE)
    big = page["StaticLoRABatchInfo"].empty(20, 20, page["device"])
    for loras, constant in ((1, 1), (3, None), (16, None)):
        compiled = page["careless"][(21, 1, 1)](*page["arguments"](big, loras), num_warps=1)
        assert page["built_in"](compiled).get("max_loras") == constant


def test_the_figure_fills_what_is_lost():
    figures.draw_kept({1: {1: 0, 2: 10}, 2: {1: 0, 2: 0}}, "now", "kept")
    axes = figures.plt.gca()
    assert [text.get_text() for text in axes.texts] == ["0", "10", "0", "0"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2"]
    figures.plt.close()


# -- who remembers? -------------------------------------------------------------------------------------

def pairs_with(answer_of):
    def remembers(make_server, batches):
        return [(first, later) for first in batches for later in batches
                if answer_of(make_server, first, later) != make_server().serve(later)]
    return remembers


def after(make_server, first, later):
    server = make_server()
    server.serve(first)
    return server.serve(later)


def one_server_for_all(make_server, batches):
    server, found = make_server(), []
    for first in batches:
        for later in batches:
            server.serve(first)
            if server.serve(later) != make_server().serve(later):
                found.append((first, later))
    return found


def neighbours_only(make_server, batches):
    alone = {str(batch): make_server().serve(batch) for batch in batches}
    return [(first, later) for first, later in zip(batches, batches[1:])
            if after(make_server, first, later) != alone[str(later)]]


def against_what_is_right(make_server, batches):
    from book import detective
    return [(first, later) for first in batches for later in batches
            if after(make_server, first, later) != detective.expected(later)]


def test_the_solution_passes(capsys):
    exercises.check_remembers(functions_of(PAGE)["remembers"])
    exercises.check_remembers(pairs_with(after))
    assert capsys.readouterr().out == "passed\n" * 2


@pytest.mark.parametrize("answer, message", [
    (one_server_for_all, r"server KeepsOne .* was not found"),
    (neighbours_only, r"server KeepsOne .* was not found"),
    (against_what_is_right, r"server Wrong .* changes nothing"),
    (lambda make_server, batches: [], r"server KeepsOne .* was not found"),
])
def test_wrong_detectors_are_refused(answer, message, capsys):
    with pytest.raises(AssertionError, match=message):
        exercises.check_remembers(answer)
    assert capsys.readouterr().out == ""
