"""Does the distance from the source centre tell where the source model loses Dice?

For each centre: how its scans lie on the gauge, the source model's Dice there, and the loss
against the source centre's own held-out scans; then rank correlations, across centres and within
each centre across its cases. Labels are read for Dice alone.

    python benchmarks/shift.py --data ../shared/data --out out/shift

writes ``shift.json``, ``shift.md`` and ``shift.png`` (numbers only). What a case scored is kept in
``--out`` and not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from crop_discs import crop_box
from scipy.stats import spearmanr

from napari_grata.adaptation.shift import shift
from napari_grata.evaluation import metrics, open_cohort
from napari_grata.scans import open_scan, read_mask
from napari_grata.scans.samples import list_samples
from napari_grata.segmenters import load_segmenter, structure_mask

sys.path.append(str(Path(__file__).resolve().parents[1]))
from tools.train.recipes import home_scans

CUP = {255: 0, 128: 1, 0: 2}
DISCS, BRAINS = "local_disc_cup", "local_brain_T1_IBSR18"
FUNDUS, BRAIN = "fundus-disc-cup", "brain-tissue-t1"


@dataclass(frozen=True)
class Place:
    """Scans of one centre, and how they are shown to the model."""

    title: str
    model: str
    folder: str
    centre: str
    role: str
    labels: Any = None
    cropped: bool = False


PLACES = (
    Place("RIM-ONE r2, held out", FUNDUS, DISCS, "RIM-ONE_r2", "home", CUP),
    Place("RIM-ONE r3", FUNDUS, DISCS, "RIM-ONE_r3", "development", CUP),
    Place("Drishti-GS, tight", FUNDUS, DISCS, "Drishti-GS_tight", "development", CUP),
    Place("RIM-ONE r3 of DoFE, region", FUNDUS, DISCS, "RIM-ONE_r3_DoFE", "once", CUP, True),
    Place("Drishti-GS of DoFE, region", FUNDUS, DISCS, "Drishti-GS_DoFE", "once", CUP, True),
    Place("REFUGE train, region", FUNDUS, DISCS, "REFUGE_train_DoFE", "once", CUP, True),
    Place("REFUGE validation, region", FUNDUS, DISCS, "REFUGE_val_DoFE", "once", CUP, True),
    Place("IDRiD, region", FUNDUS, "open_fundus_disc", "IDRiD", "once", {0: 0, 1: 1, 255: 1}, True),
    Place("Drishti-GS, wide", FUNDUS, DISCS, "Drishti-GS", "wide", CUP),
    Place("REFUGE train, wide", FUNDUS, DISCS, "REFUGE_train_DoFE", "wide", CUP),
    Place("REFUGE validation, wide", FUNDUS, DISCS, "REFUGE_val_DoFE", "wide", CUP),
    Place("IBSR A, held out", BRAIN, BRAINS, "A_0.9375mm", "home"),
    Place("IBSR B", BRAIN, BRAINS, "B_1.0mm", "development"),
    Place("IBSR C", BRAIN, BRAINS, "C_0.8371mm", "once"),
)
COLOURS = {"home": "#009E73", "development": "#0072B2", "once": "#E69F00", "wide": "#D55E00"}
ROLES = {
    "home": "source centre, held out",
    "development": "development centre",
    "once": "looked at once",
    "wide": "wide field, looked at once",
}


def cases(place: Place, data: Path) -> Iterator[tuple[str, Path, Path]]:
    """Name, image and mask of each case; at home the held-out ones alone."""
    kept = None
    if place.role == "home":
        kept = {path.name for path in home_scans(place.model, data, least=1)[0]}
    for case in open_cohort(data / place.folder, [place.centre]).centres[0].cases:
        if kept is None or case.image.name in kept:
            yield case.name, case.image, case.mask


def measure(segmenter: Any, place: Place, image: Path, mask: Path) -> dict[str, Any]:
    """Score and the source model's Dice (per cent) of one case."""
    scan = open_scan(image)
    labels = place.labels or {0: 0, **{s.value: s.value for s in segmenter.card.structures}}
    truth = read_mask(mask, scan, labels=labels)
    region = crop_box(truth) if place.cropped else None
    found = shift(segmenter, scan, region=region)
    predicted = segmenter.predict(scan, region=region)
    stack = scan.mask_stack((one.slice_index, one.label_map) for one in predicted)
    drawn = set(labels.values())
    dice = {
        s.name: 100
        * metrics.dice(*(structure_mask(segmenter.card, m, s.name) for m in (stack, truth)))
        for s in segmenter.card.structures
        if s.value in drawn
    }
    return {
        "score": found.score,
        "level": found.level,
        "calibrated": found.calibrated,
        "distance": found.distance,
        "dice": dice,
    }


def collect(data: Path, models: Path, out: Path) -> dict[str, list[dict[str, Any]]]:
    """Measure all places, or read what an earlier run with the same weights has kept."""
    kept = out / "cases.json"
    known: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    segmenters = {name: load_segmenter(models / name, device="cpu") for name in (FUNDUS, BRAIN)}
    found: dict[str, list[dict[str, Any]]] = {}
    for place in PLACES:
        segmenter = segmenters[place.model]
        reference = segmenter.card.shift
        for name, image, mask in cases(place, data):
            key = f"{place.title}/{name}/{reference.weights[:12]}/{reference.edge}"
            if key not in known:
                known[key] = measure(segmenter, place, image, mask)
            found.setdefault(place.title, []).append(known[key])
        kept.write_text(json.dumps(known, indent=0))
        print(f"{place.title}: {len(found[place.title])}", flush=True)
    return found


def mean_dice(row: dict[str, Any], structures: Any = None) -> float:
    """Mean over the structures that were drawn, or over some of them."""
    return float(np.mean([row["dice"][name] for name in structures or row["dice"]]))


def table(found: dict[str, list[dict[str, Any]]]) -> tuple[list[dict[str, Any]], list[str]]:
    """One line a centre, and the sentences about ranks."""
    rows = []
    for place in PLACES:
        here = found[place.title]
        home = next(found[p.title] for p in PLACES if p.model == place.model and p.role == "home")
        structures = list(here[0]["dice"])
        dice = [mean_dice(row) for row in here]
        scores = np.array([row["score"] for row in here])
        rank = spearmanr(scores, dice) if len(here) >= 10 else None
        rows.append(
            {
                "centre": place.title,
                "model": place.model,
                "role": place.role,
                "n": len(here),
                "median": float(np.median(scores)),
                "low": float(np.quantile(scores, 0.25)),
                "high": float(np.quantile(scores, 0.75)),
                "levels": [sum(r["level"] == x for r in here) for x in ("near", "moderate", "far")],
                "dice": {s: float(np.mean([r["dice"][s] for r in here])) for s in structures},
                # Against home on the same structures: IDRiD has the disc alone.
                "loss": float(np.mean([mean_dice(r, structures) for r in home]) - np.mean(dice)),
                "within": None if rank is None else [float(rank[0]), float(rank[1])],
            }
        )
    return rows, ranks(rows)


def ranks(rows: list[dict[str, Any]]) -> list[str]:
    """Rank correlation of a centre's median score with its loss, in sentences."""
    sentences = []
    for model in (FUNDUS, BRAIN):
        for title, roles in (
            ("home and development centres", ("home", "development")),
            ("all at the field of view of training", ("home", "development", "once")),
            ("all, wide fields too", ("home", "development", "once", "wide")),
        ):
            some = [row for row in rows if row["model"] == model and row["role"] in roles]
            if len(some) >= 3 and not (model == BRAIN and "wide" in roles):
                rho = spearmanr([r["median"] for r in some], [r["loss"] for r in some])[0]
                sentences.append(f"{model}, {title}: rho = {rho:+.2f}, n = {len(some)} centres")
    return sentences


def by_level(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Disc Dice of the new centres' photographs by what the gauge said, in sentences."""
    new = [p for p in PLACES if p.model == FUNDUS and p.role != "home"]
    sentences = []
    for title, places in (
        ("field of view of training", [p for p in new if p.role != "wide"]),
        ("wide fields too", new),
    ):
        cells = []
        for level in ("near", "moderate", "far"):
            dice = [
                row["dice"]["disc"]
                for place in places
                for row in found[place.title]
                if row["level"] == level
            ]
            low = 100 * np.mean(np.array(dice) < 90)
            cells.append(f"{level} {np.mean(dice):.1f} ({low:.0f} % below 90, n = {len(dice)})")
        sentences.append(f"disc Dice by level, new centres, {title}: {'; '.join(cells)}")
    return sentences


def markdown(rows: list[dict[str, Any]], sentences: list[str], samples: list[str]) -> str:
    """The table of docs/results-details.md."""
    lines = [
        "| centre | looked at | n | shift: median (quartiles) | near / moderate / far | Dice % | "
        "loss | within the centre: rho of shift and Dice |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        dice = ", ".join(f"{name} {value:.1f}" for name, value in row["dice"].items())
        within = ""
        if row["within"] is not None:
            within = f"{row['within'][0]:+.2f} (p {row['within'][1]:.2g})"
        loss = "" if row["role"] == "home" else f"{row['loss']:+.1f}"
        lines.append(
            f"| {row['centre']} | {ROLES[row['role']]} | {row['n']} | {row['median']:.2f} "
            f"({row['low']:.2f} … {row['high']:.2f}) | {' / '.join(map(str, row['levels']))} | "
            f"{dice} | {loss} | {within} |"
        )
    return "\n".join([*lines, "", *(f"- {line}" for line in [*sentences, *samples]), ""])


def sample_lines(models: Path) -> list[str]:
    """The scans that ship with the plugin, on the gauge."""
    lines = []
    for sample in list_samples():
        segmenter = load_segmenter(models / sample.model, device="cpu")
        found = shift(segmenter, open_scan(sample.path))
        lines.append(f"sample {sample.title}: {found.score:.2f}, {found.level}")
    return lines


def plot(found: dict[str, list[dict[str, Any]]], rows: list[dict[str, Any]], path: Path) -> None:
    """Each centre's cases on the gauge, and its loss against its median."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    cases_axes, loss_axes = figure.subplots(1, 2, width_ratios=(3, 2))
    generator = np.random.default_rng(0)
    for number, row in enumerate(reversed(rows)):
        scores = [case["score"] for case in found[row["centre"]]]
        height = number + generator.uniform(-0.22, 0.22, len(scores))
        colour = COLOURS[row["role"]]
        cases_axes.plot(scores, height, "o", color=colour, markersize=3.5, alpha=0.6)
        cases_axes.plot([row["median"]] * 2, [number - 0.35, number + 0.35], color="black")
        marker = "o" if row["model"] == FUNDUS else "s"
        loss_axes.plot(row["median"], row["loss"], marker, color=colour, markersize=7)
    cases_axes.set_yticks(range(len(rows)), [f"{r['centre']} ({r['n']})" for r in reversed(rows)])
    for axes in (cases_axes, loss_axes):
        for edge in (1.0, 1.5):
            axes.axvline(edge, color="0.6", linewidth=1, linestyle="--")
        axes.set_xlabel("shift (1: edge of the source centre)")
        axes.set_xlim(0, 2.6)
        axes.spines[["top", "right"]].set_visible(False)
    loss_axes.axhline(0, color="0.6", linewidth=1)
    loss_axes.set_ylabel("loss of mean Dice against home (points)")
    handles = [
        loss_axes.plot([], [], "o", color=COLOURS[role], label=title)[0]
        for role, title in ROLES.items()
    ]
    handles.append(loss_axes.plot([], [], "s", color="0.4", label="brain (others: fundus)")[0])
    figure.legend(handles=handles, loc="outside upper center", ncols=5, frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, default=Path(__file__).parents[1] / "models")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found = collect(options.data, options.models.resolve(), options.out)
    rows, sentences = table(found)
    sentences += by_level(found)
    text = markdown(rows, sentences, sample_lines(options.models.resolve()))
    (options.out / "shift.md").write_text(text, encoding="utf-8")
    (options.out / "shift.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    plot(found, rows, options.out / "shift.png")
    print(text)


if __name__ == "__main__":
    main()
