"""A stream of 10,000 steps on small images: does a step stay as fast, and memory as small?

Adapts to a generated volume of 64 × 64 pixels, over and over, with a network of a few thousand
parameters, and prints time per step, resident memory and what the history takes, every 1,000 steps.

    xvfb-run -a python benchmarks/long_stream.py            # --steps 2000 for a short look
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

SLICES = 100


def resident() -> float:
    """Return the resident memory of this process in MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def make_scan() -> Any:
    """Make a volume with a bright ball in it."""
    from napari_grata.scans import scan_from_array

    rng = np.random.default_rng(0)
    z, y, x = np.ogrid[:SLICES, :64, :64]
    ball = (y - 32) ** 2 + (x - 30) ** 2 < 200 + 2 * z
    data = (0.3 * rng.random((SLICES, 64, 64)) + 0.6 * ball).astype(np.float32)
    return scan_from_array(data, name="ball", spacing=(1.0, 1.0, 1.0))


def make_segmenter() -> Any:
    """Make a small network that needs milliseconds for a step."""
    import torch
    from torch import nn

    from napari_grata.segmenters import Card, Segmenter, Structure

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 1, 1),
    ).eval()
    card = Card(
        name="small",
        title="Small",
        structures=(Structure("ball", "#56B4E9", 1),),
        channels=1,
        dimensions=3,
        modality="T1",
        normalisation={"kind": "unit"},
        weights_sha256="0" * 64,
    )
    return Segmenter(card, network, "cpu")


def stream(steps: int) -> list[Any]:
    """Adapt, print a row every 1,000 steps, and return the records as the dock keeps them."""
    from dataclasses import replace

    from napari_grata.adaptation import AdaptationRun, Settings

    settings = Settings(learning_rate=1e-3, passes=max(1, steps // SLICES))
    run = AdaptationRun(make_segmenter(), make_scan(), settings)
    empty = np.zeros((0, 0), dtype=np.uint8)
    kept: list[Any] = []
    print("| steps | ms a step | ms of computing a step | resident MiB | history in its file MiB |")
    print("| --- | --- | --- | --- | --- |")
    print(f"| 0 | – | – | {resident():.0f} | – |", flush=True)
    began, work_began = time.perf_counter(), time.process_time()
    for record in run.records():
        kept.append(replace(record, source_mask=empty, adapted_mask=empty))
        if record.step % 1000 == 0:
            each, work = time.perf_counter() - began, time.process_time() - work_began
            size = len(run.past.steps) * 3 * run.past.theta(0).nbytes / 2**20
            print(
                f"| {record.step} | {each:.1f} | {work:.1f} | {resident():.0f} | {size:.0f} |",
                flush=True,
            )
            began, work_began = time.perf_counter(), time.process_time()
    for name, ask in (
        ("a mask after step 1", lambda: run.predict(50, 1)),
        ("a mask after the last step", lambda: run.predict(50, run.last_step)),
        ("back to half of the run", lambda: run.rollback(steps // 2)),
    ):
        began = time.perf_counter()
        ask()
        print(f"\n{name}: {1000 * (time.perf_counter() - began):.0f} ms", end="")
    print()
    run.close()
    return kept


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stream, then draw it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=10_000)
    stream(parser.parse_args(argv).steps)


if __name__ == "__main__":
    main()
