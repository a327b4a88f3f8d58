"""What finding the frame gains: Dice of the whole picture, in the frame, and in it with six views.

    python benchmarks/frames.py --data ../shared/data --out out/frames

For each centre: mean Dice and that of the worst tenth of each structure, how many pictures got a
frame, of how many the model is unsure, and the seconds that finding took. Labels are read for Dice
alone. What a picture scored is kept in ``--out`` and not measured again; ``frames.md`` is written
anew after every centre.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from napari_grata.adaptation import AdaptationRun, Settings
from napari_grata.evaluation import metrics, open_cohort
from napari_grata.evaluation.cohort import Case
from napari_grata.scans import open_scan, read_mask
from napari_grata.segmenters import Segmenter, load_segmenter, structure_mask

CUP = {255: 0, 128: 1, 0: 2}
CENTRES: tuple[tuple[str, str, dict[int, int] | None], ...] = (
    ("local_disc_cup", "Drishti-GS", CUP),
    ("local_disc_cup", "Drishti-GS_tight", CUP),
    ("local_disc_cup", "RIM-ONE_r3", CUP),
    *(
        ("local_disc_cup", name, CUP)
        for name in ("Drishti-GS_DoFE", "REFUGE_train_DoFE", "REFUGE_val_DoFE", "RIM-ONE_r3_DoFE")
    ),
    ("open_fundus_disc", "IDRiD", None),
)
WAYS = {
    "source": Settings(method="source"),
    "frame": Settings(method="source", reframe=True),
    "frame, six views": Settings(method="source", reframe=True, six_views=True),
}


def measure(segmenter: Segmenter, case: Case, labels: dict[int, int] | None) -> dict[str, Any]:
    """Predict one picture in all ways and measure it against its labels."""
    scan = open_scan(case.image)
    names = segmenter.card.structures
    if labels is None:  # of the outermost structure alone, in whatever value
        names = tuple(one for one in names if one.inside is None)
        with Image.open(case.mask) as opened:
            truth = (np.array(opened) > 0) * np.uint8(names[0].value)
    else:
        truth = read_mask(case.mask, scan, labels=labels)
    found: dict[str, Any] = {"dice": {}}
    for way, settings in WAYS.items():
        run = AdaptationRun(segmenter, scan, settings)
        if "frame" in found:
            run.adopt_frames([found["record"]])
        elif settings.reframe:
            start = time.process_time()
            found["frame"] = run.frame_of(0)
            found["seconds"] = time.process_time() - start
        (record,) = run.records()
        if settings.reframe:
            found["record"] = record
        found["dice"][way] = {
            one.name: metrics.dice(
                structure_mask(segmenter.card, record.adapted_mask, one),
                structure_mask(segmenter.card, truth, one),
            )
            for one in names
        }
        run.close()
    record = found.pop("record")
    found["unsure"] = any(flag.code == "frame-unsure" for flag in record.flags)
    return found


def table(scores: dict[str, dict[str, Any]]) -> list[str]:
    """Return one row a centre and structure in Markdown: mean, and in brackets the worst tenth."""
    lines = [
        f"| centre | n | structure | {' | '.join(WAYS)} | framed | unsure | seconds |",
        "|---|---|---|" + "---|" * (len(WAYS) + 3),
    ]
    for centre, cases in scores.items():
        rows = list(cases.values())
        framed, unsure = (sum(bool(row[name]) for row in rows) for name in ("frame", "unsure"))
        seconds = [row["seconds"] for row in rows]
        for structure in rows[0]["dice"]["source"]:
            cells = []
            for way in WAYS:
                dice = np.sort([100 * row["dice"][way][structure] for row in rows])
                worst = dice[: max(1, len(dice) // 10)].mean()
                cells.append(f"{dice.mean():.1f} ({worst:.1f})")
            lines.append(
                f"| {centre} | {len(rows)} | {structure} | {' | '.join(cells)} | {framed} | "
                f"{unsure} | {np.mean(seconds):.1f}, at most {max(seconds):.1f} |"
            )
    return lines


def main() -> None:
    """Measure all centres."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", default="fundus-disc-cup")
    parser.add_argument("--every", type=int, default=1, help="measure every n-th picture")
    parser.add_argument("--centres", nargs="*", help="only these")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    segmenter = load_segmenter(options.model, "cpu")
    scores: dict[str, dict[str, Any]] = {}
    for folder, name, labels in CENTRES:
        if options.centres and name not in options.centres:
            continue
        (centre,) = (c for c in open_cohort(options.data / folder).centres if c.name == name)
        kept = options.out / f"{name}.json"
        done = json.loads(kept.read_text()) if kept.exists() else {}
        for case in centre.cases[:: options.every]:
            if case.name not in done:
                done[case.name] = measure(segmenter, case, labels)
                kept.write_text(json.dumps(done, indent=1))
        scores[name] = done
        (options.out / "frames.md").write_text("\n".join([*table(scores), ""]))
    print("\n".join(table(scores)))


if __name__ == "__main__":
    main()
