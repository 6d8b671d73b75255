"""Peers: the multi-LoRA kernels of other projects, unmodified, behind the call that times ours.

The kernel files are imported from wherever `sglang` and `vllm` lie on the path (unpacked parts of
their wheels are enough), without the `__init__` files above them, and with stand-ins for what they
import but do not compute with. Nothing of it stays in `sys.modules`.

What a server computes once a step (routing, plans, pointer tables) is made in `prepare`, outside of
the timed call, for all alike. A call launches what the server launches for one layer. Run it once
before it is captured, and keep it as long as the graph: it holds the buffers.
"""

import contextlib
import dataclasses
import enum
import importlib
import importlib.metadata
import importlib.util
import os
import sys
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from types import ModuleType, SimpleNamespace, UnionType

import torch

from lorakit.adapters import LoRAWeights  # before the peers' triton, which lorakit sets up

MAX_GATHERED_BYTES = 8e9  # for gather_bmm: past it the copies are all that one measures
Calls = list[Callable[[], object]]  # one a layer; each adds into the output that prepare was given


@dataclass(frozen=True)
class Problem:
    """One batch, as every peer gets it: the weights have x's dtype, all tensors x's device."""

    x: torch.Tensor  # (num_tokens, K)
    slots: tuple[int, ...]  # slot of each token, on the host; -1 for none
    slice_sizes: tuple[int, ...]  # output size of each stacked projection
    rank: int  # of every adapter, and the width of every slot
    max_loras: int
    scalings: torch.Tensor  # (max_loras,) float32
    lens: tuple[int, ...] | None  # prefill: tokens of each request, in order; None in decode

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each slice begins in the output, and where the last one ends."""
        return 0, *accumulate(self.slice_sizes)

    def ints(self, values: object) -> torch.Tensor:
        """The values as int32, beside x."""
        return torch.tensor(values, dtype=torch.int32, device=self.x.device)


DENSE, COMMON, OPS = "kernels.ops.lora.dense.", "kernels.ops.lora.common.", "lora.ops.triton_ops."
CSGMV = ("sglang", "srt.lora.utils", DENSE + "chunked_sgmv_shrink", DENSE + "chunked_sgmv_expand")
NEEDS = {  # of each peer: its package, and the modules that `_modules` returns
    "sglang_triton": ("sglang", "srt.lora.utils", DENSE + "sgemm_lora_a", DENSE + "sgemm_lora_b",
                      DENSE + "qkv_lora_b", DENSE + "gate_up_lora_b"),
    "sglang_csgmv": CSGMV,
    "sglang_csgmv_128": CSGMV,
    "sglang_triton_v2": ("sglang", "srt.lora.utils", "srt.lora.workspace", "srt.lora.dense.plan",
                         "srt.lora.dense.runner", COMMON + "routing"),
    "vllm": ("vllm", OPS + "lora_kernel_metadata", OPS + "utils", OPS + "lora_shrink_op",
             OPS + "lora_expand_op"),
}
PARENTS = {  # packages whose __init__ would start the server's imports
    "sglang": ("", "srt", "srt.lora", "kernels", "kernels.ops", "kernels.ops.lora"),
    "vllm": ("", "lora", "lora.ops", "lora.ops.triton_ops", "utils"),
}


class _Record:
    """For pydantic.BaseModel and msgspec.Struct: named fields; strings of JSON become enums."""

    def __init_subclass__(cls, **options: object) -> None:
        dataclass(cls, kw_only=True)

    @classmethod
    def model_validate(cls, fields: dict) -> typing.Self:
        hints = typing.get_type_hints(cls)
        return cls(**{name: _parsed(hints[name], value) for name, value in fields.items()})

    def model_dump(self) -> dict:
        return dataclasses.asdict(self)


def _parsed(hint: object, value: object) -> object:
    if isinstance(hint, UnionType):  # "this or None" wherever it matters
        return None if value is None else _parsed(typing.get_args(hint)[0], value)
    if typing.get_origin(hint) is list:
        return [_parsed(typing.get_args(hint)[0], item) for item in value]
    if isinstance(hint, type) and issubclass(hint, _Record):
        return hint.model_validate(value)
    return hint(value) if isinstance(hint, type) and issubclass(hint, enum.Enum) else value


def _refuse(*args: object, **kwargs: object) -> None:
    raise AttributeError("not here")  # vLLM then calls its function instead of the registered one


def _nothing(*args: object, **kwargs: object) -> None:
    """Log nothing."""


def _capability() -> int:
    """90 on Hopper; 0 without a GPU."""
    major, minor = torch.cuda.get_device_capability() if torch.cuda.is_available() else (0, 0)
    return 10 * major + minor


def _stand_ins() -> dict[str, dict[str, object]]:
    """What stands in for modules of a server: only what the kernel files take from them."""
    import triton  # here, since it is published for Linux only

    logger = SimpleNamespace(info_once=_nothing, warning_once=_nothing)
    platform = SimpleNamespace(is_cuda=torch.cuda.is_available,
                               is_device_capability=lambda wanted: _capability() == wanted,
                               has_device_capability=lambda least: _capability() >= least)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {
        # SGLang's own cache of launches saves host time, which no graph sees. Its key leaves out the
        # rank, so that one process could not time several: without it Triton's cache decides.
        "sglang.srt.utils": {"cached_triton_kernel": lambda key: lambda kernel: kernel,
                             "get_device_name": lambda: name},
        "sglang.srt.utils.hf_transformers_utils": {"AutoConfig": None},
        "sglang.srt.model_executor": {},
        "sglang.srt.model_executor.forward_batch_info": {"ForwardBatch": None},
        "sglang.kernels.ops.lora.moe": {},  # these four: how a route is built, before the timed call
        "sglang.kernels.ops.lora.moe.virtual_experts": {"_align_block_size_jit": _refuse},
        "sglang.kernels.jit": {},
        "sglang.kernels.jit.utils": {"is_arch_support_pdl": lambda: False},
        "msgspec": {"Struct": _Record},
        "pydantic": {"BaseModel": _Record, "ConfigDict": dict, "Field": dataclasses.field,
                     "model_validator": lambda mode: lambda method: method},
        "vllm.logger": {"init_logger": lambda name: logger},
        "vllm.platforms": {"current_platform": platform},
        "vllm.triton_utils": {"triton": triton, "tl": triton.language},
        "vllm.utils.torch_utils": {"async_tensor_h2d": torch.tensor,
                                   "direct_register_custom_op": _refuse},
    }


_LOADED: dict[str, dict[str, ModuleType]] = {}


@contextlib.contextmanager
def _importing(package: str) -> Iterator[None]:
    """While it lasts, `sys.modules` holds the package as its kernel files are to see it.

    Raises:
        ModuleNotFoundError: if the package is nowhere on the path.
    """
    roots = (package, "msgspec", "pydantic")
    within = lambda names: [n for n in names if n.partition(".")[0] in roots]  # noqa: E731
    if package not in _LOADED:
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise ModuleNotFoundError(f"{package} is not installed")
        stand_ins = _stand_ins()
        contents = {f"{package}.{name}".rstrip("."): {
            "__path__": [os.path.join(root, *name.split("."))
                         for root in spec.submodule_search_locations]}
            for name in PARENTS[package]}
        contents |= {name: {"__path__": []} | stand_ins[name] for name in within(stand_ins)}
        modules = {}
        for name, attributes in contents.items():
            modules[name] = ModuleType(name)
            vars(modules[name]).update(attributes)
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(modules[parent], child, modules[name])
        _LOADED[package] = modules
    outer = {name: sys.modules.pop(name) for name in within(list(sys.modules))}
    sys.modules.update(_LOADED[package])
    try:
        yield
    finally:
        _LOADED[package] = {name: sys.modules.pop(name) for name in within(list(sys.modules))}
        sys.modules.update(outer)


def _modules(peer: str) -> list[ModuleType]:
    package, *names = NEEDS[peer]
    with _importing(package):
        return [importlib.import_module(f"{package}.{name}") for name in names]


def absent() -> dict[str, str]:
    """Why a peer cannot be loaded here, for those that cannot. One does not stop another."""
    reasons = {}
    for peer in NEEDS:
        try:
            _modules(peer)
        except ModuleNotFoundError as error:
            reasons[peer] = str(error)
        except Exception as error:
            reasons[peer] = f"{type(error).__name__}: {error}"
    return reasons


def versions() -> dict[str, str]:
    """The version of each peer's package, for those that are on the path."""
    found = {}
    for package in PARENTS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _batch_info(problem: Problem, utils: ModuleType, owners: list[int], lens: list[int],
                max_len: int, order: list[int] | None, room: int | None = None) -> object:
    """SGLang's LoRABatchInfo; with `room`, the static one of a graph, of so many segments.

    SGLang gives tokens without an adapter a slot of rank 0, here the one past ours. Its kernels
    leave before they touch that slot's weights, so none are needed.
    """
    spare = 0 if room is None else room - len(lens)
    lens, owners = lens + [0] * spare, owners + [0] * spare
    return utils.LoRABatchInfo(
        use_cuda_graph=room is not None, bs=len(lens), num_segments=len(lens), max_len=max_len,
        seg_lens=problem.ints(lens), seg_indptr=problem.ints([0, *accumulate(lens)]),
        weight_indices=problem.ints(owners),
        lora_ranks=problem.ints([problem.rank] * problem.max_loras + [0]),
        scalings=torch.cat([problem.scalings, problem.scalings.new_zeros(1)]),
        permutation=None if order is None else problem.ints(order))


def _owners(problem: Problem) -> tuple[list[int], list[int]]:
    """SGLang's slot of each token, and the tokens sorted by it."""
    owners = [problem.max_loras if slot < 0 else slot for slot in problem.slots]
    return owners, sorted(range(len(owners)), key=owners.__getitem__)


def sglang_triton(problem: Problem, layers: list[LoRAWeights], out: torch.Tensor) -> Calls:
    """SGLang's first backend: a segment for each adapter in decode, for each request in prefill."""
    utils, a, b, qkv, gate_up = _modules("sglang_triton")
    owners, order = _owners(problem)
    sizes, offsets = problem.slice_sizes, problem.ints(problem.offsets)
    if problem.lens is None:
        used = list(range(problem.max_loras + (-1 in problem.slots)))
        lens, max_len = [owners.count(slot) for slot in used], len(owners)
        info = _batch_info(problem, utils, used, lens, max_len, order)
    else:
        of_requests = [owners[start] for start in accumulate(problem.lens[:-1], initial=0)]
        info = _batch_info(problem, utils, of_requests, list(problem.lens), max(problem.lens), None)

    def call(lora_a: torch.Tensor, lora_b: torch.Tensor) -> None:
        h = a.sgemm_lora_a_fwd(problem.x, lora_a, info, stack_num=len(sizes))
        if len(sizes) == 1:
            b.sgemm_lora_b_fwd(h, lora_b, info, out)
        elif len(sizes) == 2 and sizes[0] == sizes[1]:
            gate_up.gate_up_lora_b_fwd(h, lora_b, info, sizes[0], out)
        else:
            qkv.qkv_lora_b_fwd(h, lora_b, info, offsets, max(sizes), out, n_slices=len(sizes))

    return [partial(call, layer.lora_a.flatten(1, 2), layer.lora_b) for layer in layers]


def sglang_csgmv(problem: Problem, layers: list[LoRAWeights], out: torch.Tensor,
                 max_chunk: int = 16) -> Calls:
    """SGLang's default backend: tokens sorted by adapter and cut into chunks.

    `max_chunk` is the server's --max-lora-chunk-size: 16 unless it is set, 128 at most.
    """
    utils, shrink, expand = _modules("sglang_csgmv")
    # Split-K is opt-in there. SGLang measured it on an H200, and it acts on those shapes alone.
    os.environ.setdefault("SGLANG_ENABLE_LORA_CSGMV_SPLIT_K", "1")
    owners, order = _owners(problem)
    tokens, sizes = len(owners), problem.slice_sizes
    chunk = min(max_chunk, 128 if tokens >= 256 else 32 if tokens >= 64 else 16)
    chunks, lens = utils.merge_and_chunk_segments([owners[t] for t in order], [1] * tokens, chunk)
    # A captured decode step has room for any batch of its size, so for a segment a token.
    room = tokens if problem.lens is None else None
    info = _batch_info(problem, utils, chunks, lens, chunk, order, room)
    offsets, on_host = problem.ints(problem.offsets), torch.tensor(problem.offsets)

    def call(lora_a: torch.Tensor, lora_b: torch.Tensor) -> None:
        h = shrink.chunked_sgmv_lora_shrink_forward(problem.x, lora_a, info, len(sizes))
        expand.chunked_sgmv_lora_expand_forward(h, lora_b, info, offsets, max(sizes), out, on_host)

    return [partial(call, layer.lora_a.flatten(1, 2), layer.lora_b) for layer in layers]


def sglang_triton_v2(problem: Problem, layers: list[LoRAWeights], out: torch.Tensor) -> Calls:
    """SGLang's newest backend, by the plan that its table has for this GPU and this size.

    Its plans for decode overlap the shrink with the base GEMM; here there is none to overlap.
    """
    utils, workspace, plans, runners, routing = _modules("sglang_triton_v2")
    device, tokens, offsets = problem.x.device, len(problem.slots), problem.offsets

    class Workspace(workspace.LoraWorkspace):
        """Buffers of no stream in particular: a graph is captured on another than the warm-up's."""

        _caller = staticmethod(lambda device: 0)

    with _importing("sglang"):  # its functions import more when they are called
        runner = runners.DenseLoraRunner(Workspace(), max_loras=problem.max_loras, device=device)
        runner.begin_batch(
            token_slots=problem.ints(problem.slots), scalings=problem.scalings, num_tokens=tokens,
            lora_ranks=problem.ints([problem.rank] * problem.max_loras), graph_mode=False,
            phase=utils.Phase.DECODE if problem.lens is None else utils.Phase.PREFILL)
        plan = runner.plan_for(plans.DenseLoraKind.LINEAR, problem.rank, problem.x.shape[1],
                               offsets[-1], num_tokens=tokens)
        if plan.needs_aligned_route:
            # For more tokens SGLang compiles CUDA code on the spot. Capacity 0 asks for its builder
            # in Triton, which makes such a route too. The key is the runner's.
            few = tokens <= routing._SMALL_ROUTE_MAX_PAIRS
            build = partial(routing.build_route, runner.token_slots, max_loras=problem.max_loras,
                            block_size=plan.block_size, capacity=None if few else 0)
            key = ("sorted", plan.block_size, problem.max_loras)
            runner.workspace.route(runner.token_slots, key, build)
        runners.slice_geometry(offsets, plan.b_tiles["BLOCK_SIZE_N"], device)  # it keeps the tables

    def call(lora_a: torch.Tensor, lora_b: torch.Tensor) -> None:
        bridge = runner.run_a(problem.x, lora_a, stack=len(problem.slice_sizes), plan=plan)
        runner.run_b(bridge, lora_b, out, offsets=offsets, plan=plan)

    return [partial(call, layer.lora_a.flatten(1, 2), layer.lora_b) for layer in layers]


def vllm(problem: Problem, layers: list[LoRAWeights], out: torch.Tensor) -> Calls:
    """vLLM by its defaults: one stream, so no programmatic dependent launch; no tuned table."""
    metadata, utils, shrink, expand = _modules("vllm")
    utils._LORA_A_PTR_DICT.clear()  # keyed by addresses, which new weights may take over
    utils._LORA_B_PTR_DICT.clear()
    x, sizes = problem.x, problem.slice_sizes
    meta = metadata.LoRAKernelMeta.make(problem.max_loras, len(problem.slots), x.device)
    meta.prepare_tensors(problem.ints(problem.slots))
    args = meta.meta_args(len(problem.slots), specialize_active_lora=False)

    def call(lora_a: list[torch.Tensor], lora_b: list[torch.Tensor], *tables: object) -> None:
        h = torch.empty((len(sizes), x.shape[0], problem.rank), dtype=torch.float32, device=x.device)
        shrink.lora_shrink(x, lora_a, h, *args, 1.0)  # zeroes h first
        expand.lora_expand(h, lora_b, out, *args, offset_start=0, add_inputs=True)

    calls = []
    for layer in layers:
        scaled = (layer.lora_b * problem.scalings[:, None, None]).to(x.dtype)  # as vLLM loads B
        a = [of_slice.contiguous() for of_slice in layer.lora_a.unbind(1)]
        b = [of_slice.contiguous() for of_slice in scaled.split(sizes, dim=1)]
        tables = utils._get_lora_a_ptr(a, x.device), utils._get_lora_b_ptr(b, 0, x.device)
        calls.append(partial(call, a, b, *tables))  # holds the tables, which a graph reads
    return calls


def gather_bmm(problem: Problem, layers: list[LoRAWeights], out: torch.Tensor) -> Calls:
    """Plain PyTorch: copy each token's A and B by its slot, then batched products.

    Raises:
        ValueError: if one layer's copies would exceed MAX_GATHERED_BYTES.
    """
    x, rank, stack = problem.x, problem.rank, len(problem.slice_sizes)
    elements = x.shape[0] * rank * (stack * x.shape[1] + problem.offsets[-1])
    if elements * x.element_size() > MAX_GATHERED_BYTES:
        raise ValueError(f"the copies would take {elements * x.element_size() / 1e9:.1f} GB")
    slots = problem.ints(problem.slots)
    index = slots.clamp(min=0)
    scale = (problem.scalings[index] * (slots >= 0))[:, None, None]

    def call(lora_a: torch.Tensor, lora_b: torch.Tensor) -> None:
        h = torch.bmm(lora_a.index_select(0, index), x[:, :, None]).mul_(scale)
        b = lora_b.index_select(0, index)
        for s, (start, end) in enumerate(pairwise(problem.offsets)):
            out[:, start:end, None].baddbmm_(b[:, start:end], h[:, s * rank:(s + 1) * rank])

    return [partial(call, layer.lora_a.flatten(1, 2), layer.lora_b) for layer in layers]


PEERS: dict[str, Callable[[Problem, list[LoRAWeights], torch.Tensor], Calls]] = {
    "sglang_triton": sglang_triton,
    "sglang_csgmv": sglang_csgmv,
    "sglang_csgmv_128": partial(sglang_csgmv, max_chunk=128),
    "sglang_triton_v2": sglang_triton_v2,
    "vllm": vllm,
    "gather_bmm": gather_bmm,
}
