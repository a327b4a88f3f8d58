"""What a published GraTa step spends its time on: yardstick, float32 and bfloat16.

    python benchmarks/profile_step.py --out docs/images/profile.png

Runs each once to warm up and once under PyTorch's profiler, ResUNet-34, one image of 512×512, adds
up the own time of every operator by kind, and prints the table that the picture shows.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from step import VARIANTS, stepper
from torch.profiler import ProfilerActivity, profile

# Kinds of operators, by the first of these words that an operator's name holds.
KINDS: dict[str, tuple[str, ...]] = {
    "convolutions": ("convolution", "conv_"),
    "matrix products": ("mm", "addmm", "bmm", "linear", "matmul"),
    "normalisation, statistics": ("batch_norm", "native_norm", "var", "mean", "sum", "std"),
    "element by element": (
        "add",
        "mul",
        "sub",
        "div",
        "relu",
        "clamp",
        "sigmoid",
        "where",
        "log",
        "exp",
        "sqrt",
        "pow",
        "maximum",
        "lerp",
        "bitwise",
        "threshold",
        "_foreach",
    ),
    "copies, layout, memory": (
        "copy",
        "cat",
        "empty",
        "zero",
        "fill",
        "clone",
        "contiguous",
        "to",
        "flip",
        "rot",
        "pad",
        "upsample",
        "index",
        "pool",
    ),
}
COLOURS = ["#0072B2", "#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#999999"]


def kind_of(name: str) -> str:
    """Return the kind of an operator."""
    plain = name.removeprefix("aten::")
    return next((k for k, words in KINDS.items() if any(w in plain for w in words)), "other")


def shares(work: Callable[[], object]) -> Counter[str]:
    """Return the seconds of one step by kind; what no operator accounts for is "other"."""
    work()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        began = time.perf_counter()
        work()
        took = time.perf_counter() - began
    spent: Counter[str] = Counter()
    for event in found.key_averages():
        spent[kind_of(event.key)] += event.self_cpu_time_total / 1e6
    spent["other"] += max(0.0, took - sum(spent.values()))
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/profile.png"))
    options = parser.parse_args()
    spent = {variant: shares(stepper(variant, "resnet34", 512)) for variant in VARIANTS}
    kinds = [*KINDS, "other"]
    print("| s a step | " + " | ".join(spent) + " |")
    print("|---|" + "---|" * len(spent))
    for kind in kinds:
        print(f"| {kind} | " + " | ".join(f"{found[kind]:.2f}" for found in spent.values()) + " |")
    figure, axes = plt.subplots(figsize=(8, 2.7), layout="constrained")
    left = [0.0] * len(spent)
    for kind, colour in zip(kinds, COLOURS, strict=True):
        widths = [found[kind] for found in spent.values()]
        axes.barh(list(spent), widths, left=left, color=colour, label=kind)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("seconds a step")
    figure.legend(frameon=False, fontsize="small", ncols=3, loc="outside upper center")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=130)


if __name__ == "__main__":
    main()
