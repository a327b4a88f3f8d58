"""A whole volume of 192 × 192 pixels, source model then GraTa: time and peak memory.

Generated heads of 40 and 160 slices (or ``--slices``), the compact brain model, one fresh process
each: the memory above that of the shorter one is what grows with the number of slices. Masks and
the volume itself are part of it (1 MiB and 23 MiB for 160 slices).

    python benchmarks/volume.py
    python benchmarks/volume.py --structures 50 --side 256 --slices 64 256 --methods careful
    python benchmarks/volume.py --structures 50 --patch 64 --side 256 --slices 256 --methods careful

With ``--structures`` the model is a made-up one that tells so many structures apart (softmax), with
``--patch`` one that reads volumes in windows of so many voxels a side.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def make_volume(slices: int, side: int, folder: Path) -> Path:
    """Write a head of three tissues, as a compressed NIfTI file."""
    import nibabel as nib

    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(
        np.linspace(-1.1, 1.1, slices),
        np.linspace(-1.1, 1.1, side),
        np.linspace(-1.1, 1.1, side),
        indexing="ij",
    )
    radius = np.sqrt(z**2 + y**2 + (1.2 * x) ** 2)
    folds = 0.06 * np.sin(14 * y) * np.cos(11 * x)
    data = np.zeros(radius.shape, dtype=np.float32)
    for edge, value in ((1.0, 60.0), (0.85, 120.0), (0.68, 180.0), (0.2, 60.0)):
        data[radius + (folds if edge < 1 else 0) < edge] = value
    data += (data > 0) * rng.normal(0, 6, data.shape).astype(np.float32)
    path = folder / f"head_{slices}.nii.gz"
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    nib.save(nib.Nifti1Image(data.transpose(2, 1, 0), affine), path)
    return path


def peak() -> float:
    """Return the largest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def made_up(structures: int, patch: int = 0) -> Any:
    """Return a segmenter of so many structures: shades of grey, one after the other."""
    import torch
    from torch import nn

    from napari_grata.segmenters import Card, Segmenter, Structure
    from napari_grata.segmenters.card import VIEWS, structure_colours
    from napari_grata.segmenters.planned import PlannedSegmenter, PlannedWindow, ReadingPlan

    plan: Any = {"patch": [patch] * 3, "overlap": 0.5, "gaussian": True}
    plan["steps"] = [{"kind": "min-max"}]
    colours = enumerate(structure_colours(structures), 1)
    card = Card(
        name="made-up",
        title="Made up",
        structures=tuple(Structure(f"structure {n}", colour, n) for n, colour in colours),
        activation="softmax",
        channels=1,
        modality="T1",
        dimensions=3,
        arguments={"plan": plan} if patch else {},
        views=("identity", "left-right", "through", "through-left-right") if patch else VIEWS,
    )
    torch.manual_seed(0)
    network = nn.Sequential(
        (nn.Conv3d if patch else nn.Conv2d)(1, 16, 3, padding=1),
        (nn.BatchNorm3d if patch else nn.BatchNorm2d)(16),
        nn.ReLU(),
        (nn.Conv3d if patch else nn.Conv2d)(16, card.outputs, 1),
    )
    if patch:
        window = PlannedWindow(network, ReadingPlan.from_arguments(plan))
        return PlannedSegmenter(card, window, device="cpu")
    return Segmenter(card, network, device="cpu")


def work(path: Path, method: str, structures: int, patch: int) -> dict[str, Any]:
    """Segment and adapt one volume; returns seconds and MiB."""
    from napari_grata import load_segmenter, open_scan
    from napari_grata.adaptation import AdaptationRun
    from napari_grata.adaptation.settings import preset

    scan = open_scan(path)
    known = not structures
    segmenter = load_segmenter("brain-tissue-t1", "cpu") if known else made_up(structures, patch)
    loaded = peak()
    began = time.perf_counter()
    masks = {found.slice_index: found.label_map for found in segmenter.predict(scan)}
    source, source_peak = time.perf_counter() - began, peak()
    run = AdaptationRun(segmenter, scan, preset(method).settings, source_masks=masks)
    began = time.perf_counter()
    steps = sum(record.phase == "adapt" for record in run.records())
    adapted = time.perf_counter() - began
    run.close()
    return {
        "slices": scan.n_slices,
        "method": method,
        "source": source,
        "adapted": adapted,
        "steps": steps,
        "loaded": loaded,
        "source_peak": source_peak,
        "peak": peak(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run each volume in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--slices", type=int, nargs="+", default=[40, 160])
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--structures", type=int, default=0)
    parser.add_argument("--patch", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=["as-published", "careful"])
    parser.add_argument("--one", nargs=2, metavar=("FILE", "METHOD"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one:
        print(
            json.dumps(
                work(Path(options.one[0]), options.one[1], options.structures, options.patch)
            )
        )
        return
    print(
        "| slices | method | source s | adapting s | ms a slice | MiB with the model loaded "
        "| MiB at most, source | MiB at most |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    command = [sys.executable, __file__, f"--structures={options.structures}"]
    command.append(f"--patch={options.patch}")
    with tempfile.TemporaryDirectory() as folder:
        for slices in options.slices:
            path = make_volume(slices, options.side, Path(folder))
            for method in options.methods:
                done = subprocess.run(
                    [*command, "--one", str(path), method],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if done.returncode:
                    raise SystemExit(done.stderr[-2000:])
                found = json.loads(done.stdout.splitlines()[-1])
                print(
                    f"| {found['slices']} | {method} | {found['source']:.1f} "
                    f"| {found['adapted']:.1f} | {1000 * found['adapted'] / found['slices']:.0f} "
                    f"| {found['loaded']:.0f} | {found['source_peak']:.0f} "
                    f"| {found['peak']:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
