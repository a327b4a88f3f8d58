"""``napari-grata shift``: how far scans are from a model's source centre."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add_parser(verbs: Any, common: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the verb to the command line's parser."""
    parser = verbs.add_parser("shift", help="how far scans are from the model's source centre")
    parser.add_argument(
        "scan",
        nargs="+",
        type=Path,
        metavar="SCAN",
        help="NIfTI files, photographs, or folders of photographs",
    )
    parser.add_argument("--model", required=True, help="name, folder with card.yaml, or .pth file")
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:1, mps or cpu")
    parser.add_argument(
        "--region",
        metavar="TOP,LEFT,BOTTOM,RIGHT",
        help="only this rectangle of each slice, in displayed pixels",
    )
    parser.add_argument("--layers", action="store_true", help="print each layer's figures too")
    common(parser)


def shift(options: argparse.Namespace) -> dict[str, Any]:
    """Measure each photograph and volume by itself; one that fails does not stop the others."""
    from napari_grata.adaptation.shift import ShiftError, shifts, why_not
    from napari_grata.cli import parse_region
    from napari_grata.scans import ScanError, open_scan
    from napari_grata.segmenters import load_segmenter

    region = parse_region(options.region)
    segmenter = load_segmenter(options.model, device=options.device)
    problem = why_not(segmenter.card)
    if problem is not None:
        raise ShiftError(problem)
    out = sys.stderr if options.json else sys.stdout
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    for path in options.scan:
        try:
            scan = open_scan(path)
            for case, found in shifts(segmenter, scan, region=region):
                name = scan.case_name(case)
                print(f"{name}: {found.score:.2f}  {found.words}", file=out)
                if options.layers:
                    print(f"  {found.more}", file=out)
                    for layer in found.per_layer:
                        typical = (
                            "" if layer.typical is None else f", typically {layer.typical:.3f}"
                        )
                        print(
                            f"  {layer.name}: {layer.mean:.3f}{typical}; variance × "
                            f"{layer.variance_ratio:.2f}",
                            file=out,
                        )
                rows.append(
                    {
                        "scan": name,
                        "score": found.score,
                        "level": found.level,
                        "words": found.words,
                        "nearer_at_home": found.calibrated,
                        "distance": found.distance,
                        "layers": {
                            layer.name: {
                                "mean": layer.mean,
                                "variance_ratio": layer.variance_ratio,
                                "typical": layer.typical,
                            }
                            for layer in found.per_layer
                        },
                    }
                )
        except (ScanError, ShiftError) as error:
            if len(options.scan) == 1:
                raise
            failed.append(str(error))
            print(f"napari-grata: {error}", file=sys.stderr)
    if failed and not rows:
        raise ShiftError("None of the scans could be measured.")
    return {"model": segmenter.card.name, "scans": rows, "failed": failed}
