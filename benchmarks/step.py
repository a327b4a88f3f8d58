"""What a step costs: against the published order of operations, and how the cost grows.

One command prints Markdown tables. Whatever is compared takes turns in one run, so that a busy
machine hits all alike; ratios are of the fastest rounds, to the yardstick of
``published_step.py``. Memory is the peak of a fresh process above what it held with the model
ready.

    python benchmarks/step.py                                  # everything, about five minutes
    python benchmarks/step.py --only step,memory --rounds 3
    python benchmarks/step.py --threads 1 --processor-time     # on a busy machine
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from published_step import PublishedStep
from torch import Tensor

from napari_grata.adaptation import adapt
from napari_grata.adaptation.methods import GraTa, make_method
from napari_grata.adaptation.settings import PRESETS
from napari_grata.scans import open_scan
from napari_grata.scans.samples import list_samples
from napari_grata.segmenters import ResUNet, load_segmenter
from napari_grata.segmenters.devices import has_bfloat16, lay_out, processor_units

PRECISIONS = ["float32", *(["bfloat16"] if has_bfloat16("cpu") else [])]
SIZES = (256, 384, 512, 768)
ENCODERS = ("compact", "resnet18", "resnet34", "resnet50")
VARIANTS = ["yardstick", *PRECISIONS]
Work = Callable[[], object]
clock = time.perf_counter
"""What times are taken with; processor time where a machine is busy with other work too."""


def network(encoder: str = "resnet34") -> ResUNet:
    """Return a network with drawn weights, laid out as `Segmenter` lays it out."""
    torch.manual_seed(0)
    net = ResUNet(encoder, outputs=2).eval()
    lay_out(net, torch.device("cpu"))
    return net


def picture(size: int) -> Tensor:
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1))


def stepper(variant: str, encoder: str, size: int) -> Work:
    """Return a published step on one picture, by the yardstick or by us."""
    x, net = picture(size), network(encoder)
    if variant == "yardstick":
        net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        plain = PublishedStep(net, 1e-4, "ent")
        return partial(plain.step, x)
    return partial(GraTa(net, precision=variant).step, x)


def race(works: dict[str, Work], rounds: int) -> dict[str, list[float]]:
    """Time works turn by turn; the first round warms up and does not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for index in range(rounds + 1):
        for name, work in works.items():
            begin = clock()
            work()
            if index:
                times[name].append(clock() - begin)
    return times


def table(columns: list[str], rows: list[list[str]]) -> None:
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
    print()


def seconds(times: list[float]) -> str:
    return f"{min(times):.3f} ({statistics.median(times):.3f})"


def against(times: dict[str, list[float]]) -> list[list[str]]:
    """Rows of name, seconds and ratio to the first."""
    first = min(next(iter(times.values())))
    return [[name, seconds(one), f"{min(one) / first:.2f}"] for name, one in times.items()]


def step(rounds: int) -> dict:
    """The published step, ResUNet-34, 512×512."""
    print("### The published GraTa step, ResUNet-34, 512×512\n")
    times = race({name: stepper(name, "resnet34", 512) for name in VARIANTS}, rounds)
    table(["", "s a step, best (median)", "of the yardstick"], against(times))
    return times


def memory(rounds: int) -> dict:
    """Peak memory of that step above the model."""
    print("### Memory of that step above the model\n")
    found = {}
    for name in VARIANTS:
        command = [sys.executable, __file__, "--peak", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = int(done.stdout)
    first = found["yardstick"]
    rows = [[n, f"{peak / 1e6:.0f} MB", f"{peak / first:.2f}"] for n, peak in found.items()]
    table(["", "peak", "of the yardstick"], rows)
    return found


def peak_of(variant: str) -> int:
    """Return by how many bytes two steps raise this process's memory (Linux)."""
    work = stepper(variant, "resnet34", 512)
    small = stepper(variant, "compact", 64)
    small()  # libraries load their kernels: not memory of the step
    del small
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    for _ in range(2):
        work()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"No {key} here: memory is measured on Linux only.")


def click(rounds: int) -> dict:
    """One photograph with the shipped model, from the click to the adapted mask."""
    print("### One photograph, shipped compact model, model loaded: click to adapted mask\n")
    segmenter = load_segmenter("fundus-disc-cup", device="cpu")
    sample = next(one for one in list_samples() if segmenter.fits(open_scan(one.path)) is None)
    scan = open_scan(sample.path)

    def run(name: str, precision: str) -> Work:
        settings = PRESETS[name].settings.but(precision=precision)
        return lambda: list(adapt(segmenter, scan, settings=settings, slices=[0]))

    names = ("as-published", "careful")
    works = {f"{name}, {kind}": run(name, kind) for name in names for kind in PRECISIONS}
    times = race(works, rounds)
    table(["", "s, best (median)"], [[name, seconds(one)] for name, one in times.items()])
    return times


def careful(rounds: int) -> dict:
    """The careful preset on the large network: a step, and the final prediction."""
    print("### Preset Careful, ResUNet-34, 512×512\n")
    x, net = picture(512), network()
    works: dict[str, Work] = {"yardstick (published step)": stepper("yardstick", "resnet34", 512)}
    for kind in PRECISIONS:
        method = make_method(PRESETS["careful"].settings.but(precision=kind), net)
        works[f"step, {kind}"] = partial(method.step, x)
        works[f"final prediction, {kind}"] = partial(method.predict, x)
    times = race(works, rounds)
    table(["", "s, best (median)", "of the yardstick"], against(times))
    return times


def sizes(rounds: int) -> dict:
    """Cost against the size of the image."""
    print("### Cost against image size, published step, ResUNet-34\n")
    columns = ["", *(f"{size}×{size}" for size in SIZES)]
    found = {}
    for size in SIZES:
        works = {kind: stepper(kind, "resnet34", size) for kind in PRECISIONS}
        found[size] = race(works, rounds)
    rows = [[f"{k}, s a step", *(seconds(found[s][k]) for s in SIZES)] for k in PRECISIONS]
    table(columns, rows)
    return found


def views(rounds: int) -> dict:
    """Cost against the number of views and how they run."""
    print("### Views, ResUNet-34, 256×256, float32: prediction without learning\n")
    x, net = picture(256), network()
    chosen: dict[str, dict[str, Any]] = {
        "one view": {},
        "six views, one by one": {"six_views": True, "batch_views": False},
        "six views, one batch": {"six_views": True, "batch_views": True},
    }
    works: dict[str, Work] = {}
    for name, arguments in chosen.items():
        works[name] = partial(GraTa(net, **arguments).predict, x)
    times = race(works, rounds)
    table(["", "s, best (median)", "of one view"], against(times))
    return times


def parameters(rounds: int) -> dict:
    """Cost against the size of the network."""
    print("### Cost against the network, published step, 256×256\n")
    found, rows = {}, []
    for encoder in ENCODERS:
        times = race({name: stepper(name, encoder, 256) for name in VARIANTS}, rounds)
        found[encoder] = times
        net = network(encoder)
        count = sum(p.numel() for key, p in net.named_parameters() if not key.startswith("res.fc"))
        ratios = [row[2] for row in against(times)[1:]]
        rows.append(
            [encoder, f"{count / 1e6:.1f} M", *(seconds(times[n]) for n in VARIANTS), *ratios]
        )
    ratio_columns = [f"{kind} / yardstick" for kind in PRECISIONS]
    table(["encoder", "parameters", *(f"{n}, s" for n in VARIANTS), *ratio_columns], rows)
    return found


SECTIONS: dict[str, Callable[[int], dict]] = {
    one.__name__: one for one in (step, memory, click, careful, sizes, views, parameters)
}


def main() -> None:
    global clock
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help=f"some of {','.join(SECTIONS)}")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each (5)")
    parser.add_argument("--threads", type=int, help="other than PyTorch's default")
    parser.add_argument(
        "--processor-time", action="store_true", help="of all threads, in place of wall-clock time"
    )
    parser.add_argument("--json", type=Path, help="also write all times here")
    parser.add_argument("--peak", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.processor_time:
        clock = time.process_time
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.peak:
        print(peak_of(options.peak))
        return
    chosen = options.only.split(",") if options.only else list(SECTIONS)
    unknown = sorted(set(chosen) - set(SECTIONS))
    if unknown:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    units = [name for name, there in processor_units().items() if there]
    what = "processor time" if options.processor_time else "wall-clock time"
    print(
        f"PyTorch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads, "
        f"{what}, units for bfloat16: {', '.join(units) or 'none'}; {options.rounds} rounds\n"
    )
    found = {name: SECTIONS[name](options.rounds) for name in chosen}
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
