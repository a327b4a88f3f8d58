"""Dice of a model folder on labelled cases, through the same path that a user takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_grata.evaluation.metrics import dice
from napari_grata.segmenters.card import Card, load_card, structure_mask, write_card
from napari_grata.segmenters.extent import anchor

from .data import LabelledCase, find_cases, labelled_scans, split_cases


def worst_tenth(values: Sequence[float]) -> float:
    """Mean of the lowest tenth, at least one value."""
    ordered = np.sort(np.asarray(values, float))
    # Of 45 cases four, where the benchmark takes five: the bundled cards were written so.
    return float(ordered[: max(1, round(len(ordered) / 10))].mean())


def evaluate_model(
    model: str | Path,
    cases: Sequence[LabelledCase],
    labels: dict[int, int],
    *,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Measure a model without adaptation.

    Parameters
    ----------
    model : path
        A model folder.
    cases : sequence of LabelledCase
    labels : dict of int to int
        Stored mask value to structure value.
    device : str

    Returns
    -------
    list of dict
        One per structure: ``structure``, ``dice_mean``, ``dice_worst_tenth`` (percent), ``n``
        and ``unit``: what was averaged over. A volume counts as one case for the mean; its worst
        tenth is over the slices in which the reference holds at least 20 pixels of the structure.
    """
    from napari_grata.segmenters.segmenter import load_segmenter

    card = load_card(Path(model))
    segmenter = load_segmenter(str(model), device=device)
    by_case: dict[str, list[float]] = {s.name: [] for s in card.structures}
    by_slice: dict[str, list[float]] = {s.name: [] for s in card.structures}
    for scan, reference in labelled_scans(cases, labels):
        stack = scan.mask_stack((one.slice_index, one.label_map) for one in segmenter.predict(scan))
        for name in by_case:
            found = structure_mask(card, stack, name)
            true = structure_mask(card, reference, name)
            by_case[name].append(100 * dice(found, true))
            if card.dimensions == 3:
                by_slice[name] += [
                    100 * dice(f, t) for f, t in zip(found, true, strict=True) if t.sum() >= 20
                ]
    return [_row(card, name, by_case[name], by_slice[name]) for name in by_case]


def write_steadiness(model: str | Path, cases: Sequence[LabelledCase]) -> None:
    """Write into a model's card how steady its own pictures are; see `framing`.

    Nothing changes for volumes, and for models that cannot be framed.
    """
    from napari_grata.scans import open_scan
    from napari_grata.segmenters.framing import home_steadiness
    from napari_grata.segmenters.segmenter import load_segmenter

    segmenter = load_segmenter(str(model), device="cpu")
    card, known = segmenter.card, anchor(segmenter.card)
    steady = home_steadiness(segmenter, (open_scan(case.image) for case in cases))
    if known is not None and steady is not None:
        measured = replace(known, steadiness=float(f"{steady:.4g}"))
        extents = tuple(measured if one == known else one for one in card.extents)
        write_card(Path(model), replace(card, extents=extents))


def _row(card: Card, name: str, cases: list[float], slices: list[float]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "structure": name,
        "dice_mean": round(float(np.mean(cases)), 2),
        "dice_worst_tenth": round(worst_tenth(slices or cases), 2),
        "n": len(cases),
        "unit": "volumes" if card.dimensions == 3 else "photographs",
    }
    if slices:
        row["slices"] = len(slices)
    return row


def evaluate(
    model: str | Path,
    data_root: str | Path,
    *,
    centre: str | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Measure a model on the held-out cases of its recipe, or on another centre.

    Parameters
    ----------
    model : path
        A model folder whose card has the name of a recipe.
    data_root : path
        Folder of the data sets.
    centre : str, optional
        Folder of another centre below it, with the recipe's mask values.
    seed : int
        Seed of the training, which decided the split.
    device : str

    Returns
    -------
    list of dict
        As `evaluate_model`.
    """
    from .recipes import find_recipe

    recipe = find_recipe(load_card(Path(model)).name)
    cases = find_cases(Path(data_root), centre or recipe.folder)
    if centre is None:
        cases = split_cases(cases, recipe.hold_out, block=recipe.block, seed=seed)[1]
    return evaluate_model(model, cases, recipe.labels, device=device)
