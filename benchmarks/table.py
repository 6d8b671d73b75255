"""The tables of appendix/speed.md, from the result files: `python -m benchmarks.table` rewrites them.

A test compares the page with what this makes, so that no number of it is typed.
"""

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from math import fsum

from benchmarks.evidence import RESULTS, ROOT

PAGE = ROOT / "appendix" / "speed.md"
NAMES = {"sglang_triton": "SGLang triton", "sglang_csgmv": "SGLang csgmv", "vllm": "vLLM",
         "sglang_csgmv_128": "SGLang csgmv, chunks of 128", "sglang_triton_v2": "SGLang triton_v2",
         "gather_bmm": "gather and bmm"}


def read(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def best_peer(case: dict) -> tuple[str, float]:
    """The fastest peer of a case, and its time."""
    name = min(case["peers"], key=case["peers"].get)
    return name, case["peers"][name]


def ratio(case: dict) -> float:
    """The best peer's time over ours: above 1 we are faster."""
    return best_peer(case)[1] / case["ours_us"]


def grouped(cases: list[dict], keys: Sequence[str]) -> dict[tuple, list[dict]]:
    """The cases of each batch: its projections."""
    batches: dict[tuple, list[dict]] = {}
    for case in cases:
        batches.setdefault(tuple(case[key] for key in keys), []).append(case)
    return batches


def layer_sums(cases: list[dict], *keys: str) -> Iterator[tuple[tuple, float, float, float, str]]:
    """For each batch, over its projections: the batch's keys, our sum, the least sum of a peer that took
    part in all of them, the floor's sum, and that peer.
    """
    for batch, group in grouped(cases, keys).items():
        sums = {peer: fsum(case["peers"][peer] for case in group) for peer in group[0]["peers"]
                if all(peer in case["peers"] for case in group)}
        best = min(sums, key=sums.get)
        ours, floor = (fsum(case[key] for case in group) for key in ("ours_us", "floor_us"))
        yield batch, ours, sums[best], floor, best


def layer_table(name: str, keys: tuple[str, ...]) -> str:
    """A row a shape: sums over the projections in us, and the least of their ratios."""
    lines = ["| " + ", ".join(keys) + " | floor | ours | best peer | peer / ours | least of four |",
             "|" + "---|" * 6]
    cold, best_peers = [case for case in read(name)["cases"] if case["weights"] == "cold"], []
    groups = grouped(cold, keys)
    for shape, ours, peer, floor, best in layer_sums(cold, *keys):
        best_peers.append(NAMES[best])
        cells = [", ".join(map(str, shape)), f"{floor:.1f}", f"{ours:.1f}", f"{peer:.1f}",
                 f"{peer / ours:.2f}", f"{min(map(ratio, groups[shape])):.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    counts = {peer: best_peers.count(peer) for peer in dict.fromkeys(best_peers)}
    return "\n".join([*lines, "", "The best peer by the sum: " + ", ".join(
        f"{peer} in {count} of {len(best_peers)} rows" for peer, count in counts.items()) + "."])


def summary(name: str, shape: Callable[[dict], str]) -> str:
    """The geometric mean, and every case that is not won."""
    cases = [case for case in read(name)["cases"] if case["weights"] == "cold"]
    mean = statistics.geometric_mean(map(ratio, cases))
    lost = sorted((case for case in cases if ratio(case) < 1), key=ratio)
    lines = [f"The best peer of each case takes {mean:.2f} times as long as lorakit, in the geometric "
             f"mean over {len(cases)} cases. The least ratio is {min(map(ratio, cases)):.2f}. lorakit is "
             f"slower in {f'{len(lost)} of them:' if lost else 'none of them.'}", *[""] * bool(lost)]
    lines += [f"- {case['projection']}, {shape(case)}: {case['ours_us']:.1f} us, "
              f"{NAMES[best_peer(case)[0]]} {best_peer(case)[1]:.1f} us" for case in lost]
    return "\n".join(lines)


def batch_of(case: dict) -> str:
    return ", ".join(str(case[key]) for key in ("tokens", "adapters", "rank", "mix"))


def shape_table(name: str) -> str:
    """A row a case."""
    lines = ["| layer | tokens, adapters, rank, mix | floor | ours | best peer | peer / ours |",
             "|" + "---|" * 6]
    for case in read(name)["cases"]:
        batch, (best, us) = batch_of(case), best_peer(case)
        lines.append(f"| {case['projection']} | {batch} | {case['floor_us']:.1f} | {case['ours_us']:.1f} | "
                     f"{us:.1f} ({NAMES[best]}) | {ratio(case):.2f} |")
    return "\n".join(lines)


def over_base_table() -> str:
    """A row a batch: the base products in us, and what each way of adding LoRA makes of that time."""
    lines = ["| tokens, adapters, rank, mix | base alone, us | fused | apart | best peer |", "|" + "---|" * 5]
    for case in read("lora_layer")["cases"]:
        base, batch, (best, us) = case["base_us"], batch_of(case), best_peer(case)
        fused = f"{case['fused_us'] / base:.3f}" if case["fused"] else "as apart"
        lines.append(f"| {batch} | {base:.1f} | {fused} | {case['unfused_us'] / base:.3f} | "
                     f"{us / base:.3f} ({NAMES[best]}) |")
    return "\n".join(lines)


def made_by() -> str:
    """Where the numbers come from."""
    p = read("lora_decode")["provenance"]
    return (f"{p['gpu']}, driver {p['driver']}, PyTorch {p['torch']}, Triton {p['triton']}, SGLang "
            f"{p['peers']['sglang']}, vLLM {p['peers']['vllm']}, commit `{p['commit']}`, {p['date']}. "
            f"{p['repeats']} replays of a graph of {p['calls_in_a_graph']} calls in decode. The layer and "
            f"the other shapes: commit `{read('lora_layer')['provenance']['commit']}`, "
            f"{read('lora_layer')['provenance']['date']}.")


def blocks() -> dict[str, str]:
    """What stands between `<!-- name -->` and `<!-- end -->` in the page."""
    decode = lambda c: (f"{c['tokens']} tokens, {c['adapters']} adapters, rank {c['rank']}, "  # noqa: E731
                        f"{c['mix']}")
    prefill = lambda c: (f"{c['tokens']} tokens, {c['requests']} requests, "  # noqa: E731
                         f"rank {c['rank']}")
    return {"made by": made_by(),
            "decode summary": summary("lora_decode", decode),
            "decode": layer_table("lora_decode", ("tokens", "adapters", "rank", "mix")),
            "prefill summary": summary("lora_prefill", prefill),
            "prefill": layer_table("lora_prefill", ("tokens", "requests", "rank")),
            "layer": over_base_table(),
            "shapes summary": summary("lora_shapes", decode), "shapes": shape_table("lora_shapes")}


def filled(page: str) -> str:
    """The page with its blocks made anew."""
    for name, text in blocks().items():
        page, found = re.subn(rf"(<!-- {name} -->\n).*?(<!-- end -->)",
                              lambda m: m[1] + "\n" + text + "\n\n" + m[2], page, flags=re.S)  # noqa: B023
        if found != 1:
            raise ValueError(f"{PAGE.name} must have one block {name!r}, it has {found}")
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
    sys.exit(0)
