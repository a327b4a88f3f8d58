"""Measure how far scans of a model's own centre lie from its statistics, and write it in its card.

``python -m napari_grata.adaptation.calibrate_shift MODEL --scans FOLDER --on "40 scans of ..."``
reads the scans of a folder, without labels. Best are scans of the source centre that the model was
*not* trained on, forty or more: with fewer, "farther than 19 of 20" cannot be told. The weights
stay as they are; only the card's ``shift`` block is new.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_grata.scans.readers import scans_in
from napari_grata.segmenters.shift_reference import FEW_SCANS, ShiftReference, quantiles

from .shift import SLICES, ShiftError, distance, layers_of, slices_to_look_at

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Segmenter

SLICES_OF_A_VOLUME = 40
"""Single slices a volume that the slices' own quantiles are taken from."""


def calibrate(
    segmenter: Segmenter,
    scans: Iterable[Scan],
    *,
    on: str,
    command: str,
    seen: int = 0,
    progress: Callable[[str], None] | None = None,
) -> ShiftReference:
    """Measure scans of the source centre.

    Parameters
    ----------
    segmenter : Segmenter
    scans : iterable of Scan
        Each photograph or volume of them counts as one. No labels are needed.
    on, command, seen : str, str, int
        What the card says about them; see `ShiftReference`.
    progress : callable, optional
        Called with a sentence after each scan.

    Returns
    -------
    ShiftReference

    Raises
    ------
    ShiftError
        There are no scans, or the model does not read one.
    """
    if segmenter.card.weights_sha256 is None:
        raise ShiftError("This model's card names no weights; write its folder first.")
    rows: list[dict[str, float]] = []
    single: list[float] = []
    frame: tuple[int, int] | None = None
    for scan in scans:
        problem = segmenter.fits(scan)
        if problem is not None:
            raise ShiftError(problem)
        for case in range(scan.n_cases):
            if segmenter.card.dimensions == 3 and frame is None:
                middle = slices_to_look_at(scan, case, 1)
                frame = _size(segmenter, scan, middle[0]) if middle else None
            layers = layers_of(segmenter, scan, slices_to_look_at(scan, case), frame=frame)
            if not layers:
                continue
            rows.append({layer.name: layer.mean for layer in layers})
            if segmenter.card.dimensions == 3:
                for index in slices_to_look_at(scan, case, SLICES_OF_A_VOLUME):
                    alone = layers_of(segmenter, scan, [index], frame=frame)
                    single += [distance(alone)] if alone else []
            if progress is not None:
                progress(f"{len(rows)}: {distance(layers):.3f}")
    if not rows:
        raise ShiftError("There is no scan to measure.")
    medians = {
        name: float(f"{np.median([row[name] for row in rows]):.4g}")
        for name in rows[0]
        if all(name in row for row in rows)
    }
    return ShiftReference(
        measured_on=on,
        scans=len(rows),
        seen=seen,
        slices=SLICES if segmenter.card.dimensions == 3 else 1,
        quantiles=quantiles(float(np.mean(list(row.values()))) for row in rows),
        slice_quantiles=quantiles(single) if single else (),
        frame=frame,
        layers=medians,
        weights=segmenter.card.weights_sha256,
        command=command,
    )


def _size(segmenter: Segmenter, scan: Scan, index: int) -> tuple[int, int]:
    height, width = segmenter.prepare(scan, index).image.shape[2:]
    return int(height), int(width)


def write_reference(folder: Path, reference: ShiftReference) -> None:
    """Put a reference into the card of a model folder; the weights are not touched."""
    from napari_grata.segmenters import load_card, write_card

    write_card(folder, replace(load_card(folder), shift=reference))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this module; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m napari_grata.adaptation.calibrate_shift",
        description=(__doc__ or "").splitlines()[0],
    )
    parser.add_argument("model", help="name of a model, or its folder")
    parser.add_argument(
        "--scans", type=Path, required=True, help="folder of scans of the source centre"
    )
    parser.add_argument("--on", default="", help="which scans these are, for the card")
    parser.add_argument("--seen", type=int, default=0, help="how many trained the model (0)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dry-run", action="store_true", help="print it, change no card")
    options = parser.parse_args(arguments)
    try:
        reference, folder = _measure(options)
        if not options.dry_run:
            write_reference(folder, reference)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(
        f"{reference.scans} scans ({reference.measured_on}): edge {reference.edge:.3f}, farthest "
        f"{reference.farthest:.3f}" + ("" if options.dry_run else f"; written to {folder}")
    )
    if reference.scans < FEW_SCANS:
        print(
            "These are few scans: 'farther than 19 of 20' cannot be told from them. The words "
            "will say how many they are.",
            file=sys.stderr,
        )
    return 0


def _measure(options: argparse.Namespace) -> tuple[ShiftReference, Path]:
    from napari_grata.scans import open_scan
    from napari_grata.segmenters import find_model, load_segmenter

    given = Path(options.model)
    folder = given if (given / "card.yaml").is_file() else find_model(options.model).folder
    segmenter = load_segmenter(Path(folder).resolve(), device=options.device)
    command = (
        f"python -m napari_grata.adaptation.calibrate_shift {segmenter.card.name} --scans FOLDER"
    )
    reference = calibrate(
        segmenter,
        (open_scan(path) for path in _scans_of(options.scans)),
        on=options.on or options.scans.name,
        command=command,
        seen=options.seen,
        progress=lambda text: print(text, file=sys.stderr),
    )
    return reference, Path(folder)


def _scans_of(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ShiftError(f"{folder} is not a folder of scans.")
    found = scans_in(folder)
    if not found:
        raise ShiftError(f"{folder} holds no scans.")
    return found


if __name__ == "__main__":
    sys.exit(main())
