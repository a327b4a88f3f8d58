"""What a benchmark found: rows of cases, tables with bootstrap intervals, files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_grata.scans.files import csv_text, write_json, write_text

BASELINE = "source"
RESAMPLES = 10_000
HARM = -0.003
"""A cell in which a method loses so much of mean Dice, or more, is one in which it does harm."""
LEVEL = 0.05
MOST_DRAWN = 8
COSTS = ("seconds", "peak_mb")
COLUMNS = (
    *("centre", "case", "structure", "method", "dice", "hd95", "assd", "area"),
    *("ece", "seed", "order", "model"),
)
#: Figures of a cell that stand in ``summary.json``; the others stand in ``details.json``.
_SUMMARY = ("dice_mean", "dice_worst_tenth", "n")

Cell = dict[str, Any]
Nested = dict[str, dict[str, dict[str, Cell]]]


@dataclass(frozen=True)
class CaseRow:
    """One structure of one case, as one method drew it.

    Attributes
    ----------
    dice : float
        0 … 1.
    hd95, assd : float
        In `unit`; NaN where exactly one of prediction and truth is empty.
    area, true_area : int
        Pixels (photographs) or voxels (volumes) of the prediction and of the truth.
    unit : {"mm", "px"}
    ece : float
        Expected calibration error, as `napari_grata.evaluation.metrics.calibration_error` has it.
    seed, order : int
        Of the stream: the settings' seed; 0 for the cohort's own order of cases, else a drawn one.
    model : str
        Name of the model's card.
    """

    centre: str
    case: str
    structure: str
    method: str
    dice: float
    hd95: float
    assd: float
    area: int
    true_area: int
    unit: str
    ece: float = math.nan
    seed: int = 0
    order: int = 0
    model: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold: None in place of NaN."""
        return {key: _or_none(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CaseRow:
        """Read what `to_dict` wrote."""
        plain: dict[str, Any] = {
            key: math.nan if value is None else value for key, value in values.items()
        }
        return cls(**plain)


def worst_tenth(values: Sequence[float] | np.ndarray, axis: int = -1) -> Any:
    """Return the mean of the lowest tenth of the values (rounded to whole cases, at least one)."""
    values = np.asarray(values, dtype=float)
    if not values.size:
        return math.nan
    kept = max(1, int(values.shape[axis] / 10 + 0.5))
    lowest = np.partition(values, kept - 1, axis=axis)
    return np.take(lowest, range(kept), axis=axis).mean(axis=axis)


def paired_interval(
    values: Sequence[float] | np.ndarray,
    baseline: Sequence[float] | np.ndarray,
    *,
    of_worst_tenth: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Cell:
    """Return how far values lie from their baseline, with its 95 % bootstrap interval.

    Whole cases are resampled. Of the mean difference the interval is bias-corrected and
    accelerated (BCa; Efron, JASA 1987). Of the difference of the two worst tenths, each taken
    anew from both methods' resampled cases, it is that of plain percentiles, because BCa's
    jackknife fails for extremes.

    Parameters
    ----------
    values, baseline : sequences of float, same length, same order of cases
    of_worst_tenth : bool
        Compare the worst tenths instead of the means.
    seed : int
        Tables can be made again with the same one.

    Returns
    -------
    dict
        ``mean``, ``low``, ``high`` (None where there are fewer than two pairs: one says nothing
        about its own spread), ``n``, and whether the interval ``excludes_zero``.

    Raises
    ------
    ValueError
        If the lengths differ.
    """
    first, second = np.asarray(values, dtype=float), np.asarray(baseline, dtype=float)
    if first.shape != second.shape:
        raise ValueError(f"Paired cases are needed; got {first.size} values and {second.size}.")
    apart, n = first - second, first.size

    def between(one: np.ndarray, other: np.ndarray, axis: int = -1) -> Any:
        return worst_tenth(one, axis) - worst_tenth(other, axis)

    mean = float(between(first, second) if of_worst_tenth else apart.mean())
    interval: tuple[float | None, float | None] = (None, None) if n == 1 else (mean, mean)
    if n > 1 and np.ptp(apart) > 0:
        # Only here, for its import takes long.
        from scipy.stats import bootstrap

        found = bootstrap(
            (first, second) if of_worst_tenth else (apart,),
            between if of_worst_tenth else np.mean,
            paired=of_worst_tenth,
            method="percentile" if of_worst_tenth else "BCa",
            vectorized=True,
            n_resamples=resamples,
            random_state=np.random.default_rng(seed),
        ).confidence_interval
        interval = float(found.low), float(found.high)
    low, high = (None if end is None or math.isnan(end) else end for end in interval)
    sure = low is not None and high is not None and (low > 0 or high < 0)
    return {"mean": mean, "low": low, "high": high, "n": n, "excludes_zero": sure}


def signed_rank(
    values: Sequence[float] | np.ndarray, baseline: Sequence[float] | np.ndarray
) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test of paired cases; 1 where none differ.

    Cases without a difference are ranked and then left out (Pratt, JASA 1959).
    """
    first, second = np.asarray(values, dtype=float), np.asarray(baseline, dtype=float)
    if first.size < 2 or not (first - second).any():
        return 1.0
    from scipy.stats import wilcoxon

    return float(wilcoxon(first, second, zero_method="pratt").pvalue)


def holm(chances: Sequence[float]) -> list[float]:
    """Return p values corrected for being several (Holm, Scandinavian J. Statistics 1979)."""
    found, largest = [1.0] * len(chances), 0.0
    for rank, place in enumerate(sorted(range(len(chances)), key=lambda i: chances[i])):
        largest = max(largest, min(1.0, (len(chances) - rank) * chances[place]))
        found[place] = largest
    return found


class Tables:
    """Everything said about a set of case rows, computed once.

    Of a case that several seeds and orders did, the mean counts: cases are what is drawn from a
    population, so intervals and tests are over them. How far seeds and orders lie apart stands
    beside it.

    Parameters
    ----------
    rows : sequence of CaseRow
        Order of models, methods, centres and structures is that of their first rows.
    seed : int
        Of the bootstrap.
    costs : mapping of method to dict, optional
        ``seconds`` a case and ``peak_mb`` of memory.
    shifts : mapping of (model, centre, case) to float, optional
        How far a case lies from the model's own centre.

    Attributes
    ----------
    places : dict of str to (str, str)
        Model and centre by the name of a place: the centre's, or ``<model>: <centre>`` where there
        are several models.
    summary, details, differences : dict
        ``{method: {place: {structure: figures}}}``; `differences` are those to the baseline. Their
        ``p`` is Wilcoxon's, ``p_holm`` corrected over all cells of the table.
    ranking : list of dict
        Methods over all cells, a cell being a structure at a place: the best mean difference first.
        ``rank_of_harm`` is the place of a method by its share of cells with harm.
    """

    def __init__(
        self,
        rows: Sequence[CaseRow],
        *,
        seed: int = 0,
        costs: Mapping[str, Cell] | None = None,
        shifts: Mapping[tuple[str, str, str], float] | None = None,
    ) -> None:
        self.rows = tuple(rows)
        self.costs, self.shifts = dict(costs or {}), dict(shifts or {})
        self.methods = list(dict.fromkeys(row.method for row in rows))
        self.models = list(dict.fromkeys(row.model for row in rows))
        self.places = {self._place(row): (row.model, row.centre) for row in rows}
        self.structures = list(dict.fromkeys(row.structure for row in rows))
        self.summary: Nested = {}
        self.details: Nested = {}
        self.differences: Nested = {}
        self._cells: dict[tuple[str, str, str], list[CaseRow]] = {}
        for row in rows:
            place = self._place(row)
            self._cells.setdefault((row.method, place, row.structure), []).append(row)
        for (method, place, structure), cell in self._cells.items():
            found = _figures(cell)
            short = {name: found.pop(name) for name in _SUMMARY}
            apart = self._difference(method, place, structure, seed)
            for table, figures in (
                (self.summary, short),
                (self.details, found),
                (self.differences, apart),
            ):
                if figures is not None:
                    table.setdefault(method, {}).setdefault(place, {})[structure] = figures
        every = [cell for method in self.methods for _, _, cell in self._differences_of(method)]
        for cell_, chance in zip(every, holm([one["p"] for one in every]), strict=True):
            cell_["p_holm"] = chance
        self.ranking = [
            self._ranked(method) for method in self.methods if method in self.differences
        ]
        self.ranking.sort(key=lambda one: -one["mean"])
        shares = [one["harm_share"] for one in self.ranking]
        for one in self.ranking:
            one["rank_of_harm"] = 1 + sum(share < one["harm_share"] for share in shares)

    def _place(self, row: CaseRow) -> str:
        return f"{row.model}: {row.centre}" if len(self.models) > 1 else row.centre

    def _differences_of(self, method: str) -> Iterator[tuple[str, str, Cell]]:
        """Yield model, structure and figures of each cell of a method."""
        for place, structures in self.differences.get(method, {}).items():
            for structure, cell in structures.items():
                yield self.places[place][0], structure, cell

    def _ranked(self, method: str) -> Cell:
        by_model: dict[str, list[Cell]] = {}
        for model, _, cell in self._differences_of(method):
            by_model.setdefault(model, []).append(cell)
        return {
            **_ranked(method, [cell for _, _, cell in self._differences_of(method)]),
            **{name: self.costs.get(method, {}).get(name) for name in COSTS},
            "models": {model: _ranked(method, cells) for model, cells in by_model.items()},
        }

    @property
    def drawn(self) -> list[str]:
        """The structures that pictures show: of more than `MOST_DRAWN`, where methods change most.

        Tables have all.
        """
        most = dict.fromkeys(self.structures, 0.0)
        for method in self.methods:
            for _, name, cell in self._differences_of(method):
                most[name] = max(most[name], abs(cell["dice_mean"]["mean"]))
        few = sorted(most, key=lambda name: -most[name])[:MOST_DRAWN]
        return [name for name in self.structures if name in few]

    @property
    def panels(self) -> list[tuple[str, str, list[str]]]:
        """Model, structure (of those `drawn`) and the places where both were measured."""
        found: dict[tuple[str, str], dict[str, None]] = {}
        drawn = self.drawn
        for _, place, structure in self._cells:
            if structure in drawn:
                found.setdefault((self.places[place][0], structure), {})[place] = None
        return [(*panel, [*places]) for panel, places in found.items()]

    def dice(self, method: str, place: str, structure: str) -> dict[str, float]:
        """Return the Dice of each case of a cell, the mean over seeds and orders."""
        return _by_case(self._cells.get((method, place, structure), []))

    def difference(self, method: str, place: str, structure: str) -> Cell | None:
        """Return the difference to the baseline; None where there is none."""
        return self.differences.get(method, {}).get(place, {}).get(structure)

    def _difference(self, method: str, place: str, structure: str, seed: int) -> Cell | None:
        baseline, own = (self.dice(one, place, structure) for one in (BASELINE, method))
        if method == BASELINE or not own.keys() <= baseline.keys():
            return None
        mine = np.array([*own.values()])
        theirs = np.array([baseline[case] for case in own])
        return {
            "dice_mean": paired_interval(mine, theirs, seed=seed),
            "dice_worst_tenth": paired_interval(mine, theirs, of_worst_tenth=True, seed=seed),
            "p": signed_rank(mine, theirs),
            "better": int((mine > theirs).sum()),
            "worse": int((mine < theirs).sum()),
        }

    def lines(self, *, full: bool = False) -> list[list[str]]:
        """Return the table for people: a header and a row a place, structure and method.

        Dice in per cent, with the standard deviation between seeds and orders where there are
        several; differences to ``source`` in points, with their 95 % intervals.

        Parameters
        ----------
        full : bool
            Also what a report needs beside the mean: harm at the worst cases, and counts.
        """
        shown = {name: of for name, (of, always) in _CELLS.items() if full or always}
        if len(self.models) == 1:
            del shown["model"]
        table = [list(shown)]
        for place, (model, centre) in self.places.items():
            for structure in self.structures:
                for method in self.methods:
                    cell = method, place, structure
                    if cell in self._cells:
                        figures = {
                            "model": model,
                            "centre": centre,
                            "structure": structure,
                            "method": method,
                            **self.summary[method][place][structure],
                            **self.details[method][place][structure],
                            "apart": self.difference(*cell),
                        }
                        table.append([write(figures) for write in shown.values()])
        return table

    def ranking_lines(self) -> list[list[str]]:
        """Return the ranking for people; empty where nothing stands beside the source.

        With several models also the mean gain with each, and its cells with harm.
        """
        if not self.ranking:
            return []
        models = self.models if len(self.models) > 1 else []
        table = [
            [
                *("method", "to source", "all cases", "worst cell", "worst tenth"),
                *("harm", "by harm", "worse *", "better *", "s / case", "peak MB", *models),
            ]
        ]
        means = ("mean", "mean_of_cases", "worst_cell", "worst_tenth")
        for one in self.ranking:
            points = (f"{100 * one[name]:+.1f}" for name in means)
            of = f" of {one['cells']}"
            harm = f"{one['harm']}{of} ({100 * one['harm_share']:.0f} %)"
            counts = (f"{one[name]}{of}" for name in ("surely_worse", "surely_better"))
            costs = ("–" if one[name] is None else f"{one[name]:.3g}" for name in COSTS)
            by_model = (
                f"{100 * own['mean']:+.1f}, harm {own['harm']} of {own['cells']}" if own else "–"
                for own in map(one["models"].get, models)
            )
            rank = f"{one['rank_of_harm']}."
            table.append([one["method"], *points, harm, rank, *counts, *costs, *by_model])
        return table


def _by_case(rows: Sequence[CaseRow]) -> dict[str, float]:
    """Return the mean Dice of each case, in the order of their first rows."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row.case, []).append(row.dice)
    return {case: float(np.mean(dice)) for case, dice in found.items()}


def _ranked(method: str, cells: Sequence[Cell]) -> Cell:
    """Return what is said of a method over its cells; Dice as a fraction."""
    means = [cell["dice_mean"]["mean"] for cell in cells]
    sure = [mean for mean, cell in zip(means, cells, strict=True) if cell["p_holm"] < LEVEL]
    harm = sum(mean <= HARM for mean in means)
    return {
        "method": method,
        "cells": len(cells),
        "mean": float(np.mean(means)),
        "mean_of_cases": float(np.average(means, weights=[c["dice_mean"]["n"] for c in cells])),
        "worst_cell": min(means),
        "worst_tenth": float(np.mean([cell["dice_worst_tenth"]["mean"] for cell in cells])),
        "harm": harm,
        "harm_share": harm / len(cells),
        "surely_worse": sum(mean < 0 for mean in sure),
        "surely_better": sum(mean > 0 for mean in sure),
    }


def _figures(rows: Sequence[CaseRow]) -> Cell:
    """Return all figures of a cell."""

    def mean(values: Sequence[float]) -> float | None:
        known = [value for value in values if not math.isnan(value)]
        return float(np.mean(known)) if known else None

    dice = [*_by_case(rows).values()]
    ratios = [row.area / row.true_area for row in rows if row.true_area]
    streams: dict[tuple[int, int], list[float]] = {}
    for row in rows:
        streams.setdefault((row.seed, row.order), []).append(row.dice)

    def spread(of: Callable[[Sequence[float]], Any]) -> float | None:
        each = [float(of(one)) for one in streams.values()]
        return float(np.std(each, ddof=1)) if len(each) > 1 else None

    return {
        "dice_mean": float(np.mean(dice)),
        "dice_worst_tenth": float(worst_tenth(dice)),
        "n": len(dice),
        "dice_median": float(np.median(dice)),
        "dice_lowest": min(row.dice for row in rows),
        "hd95_mean": mean([row.hd95 for row in rows]),
        "assd_mean": mean([row.assd for row in rows]),
        "ece_mean": mean([row.ece for row in rows]),
        "unit": rows[0].unit,
        "one_empty": sum(math.isnan(row.hd95) for row in rows),
        "area_ratio_median": float(np.median(ratios)) if ratios else None,
        "streams": len(streams),
        "dice_mean_spread": spread(np.mean),
        "dice_worst_tenth_spread": spread(worst_tenth),
    }


def _percent(name: str) -> Callable[[Cell], str]:
    def write(cell: Cell) -> str:
        apart = cell.get(f"{name}_spread")
        known = "–" if cell[name] is None else f"{100 * cell[name]:.1f}"
        return f"{known} ± {100 * apart:.1f}" if apart else known

    return write


def _plain(name: str) -> Callable[[Cell], str]:
    return lambda cell: str(cell[name])


def _distance(name: str) -> Callable[[Cell], str]:
    return lambda cell: "–" if cell[name] is None else f"{cell[name]:.1f} {cell['unit']}"


def _apart(name: str) -> Callable[[Cell], str]:
    return lambda cell: "" if cell["apart"] is None else difference_text(cell["apart"][name])


def _counts(cell: Cell) -> str:
    return "" if cell["apart"] is None else f"{cell['apart']['better']} / {cell['apart']['worse']}"


#: Columns of the table for people: how a cell is written, and whether the short one has it.
_CELLS: dict[str, tuple[Callable[[Cell], str], bool]] = {
    **{name: (_plain(name), True) for name in ("model", "centre", "structure", "method", "n")},
    "Dice %": (_percent("dice_mean"), True),
    "to source (95 % interval)": (_apart("dice_mean"), True),
    "worst tenth %": (_percent("dice_worst_tenth"), True),
    "worst tenth to source": (_apart("dice_worst_tenth"), False),
    "better / worse": (_counts, False),
    "HD95": (_distance("hd95_mean"), True),
    "ASSD": (_distance("assd_mean"), True),
    "ECE %": (_percent("ece_mean"), True),
    "one mask empty": (_plain("one_empty"), False),
}


def difference_text(interval: Cell) -> str:
    """Write a difference of Dice in points: ``+0.4 (-0.3 … +1.2)``; * where 0 is excluded."""
    mean, low, high = (interval[key] for key in ("mean", "low", "high"))
    if low is None:
        return f"{100 * mean:+.1f} (one case)"
    star = " *" if interval["excludes_zero"] else ""
    return f"{100 * mean:+.1f} ({100 * low:+.1f} … {100 * high:+.1f}){star}"


def as_text(table: Sequence[Sequence[str]]) -> str:
    """Lay a table out in columns for a terminal."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def as_markdown(table: Sequence[Sequence[str]]) -> str:
    """Write a table as Markdown."""
    rows = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([rows[0], "|" + "---|" * len(table[0]), *rows[1:]])


def write_cases(rows: Sequence[CaseRow], folder: Path) -> None:
    """Write ``cases.csv``; Dice as a fraction, an empty cell where there is no distance."""
    cases = [[_number(getattr(row, column)) for column in COLUMNS] for row in rows]
    # Without the mark that spreadsheets like: these are read by programs.
    write_text(folder / "cases.csv", csv_text(COLUMNS, cases))


def write_tables(tables: Tables, folder: Path) -> None:
    """Write what other programs read.

    ``cases.csv``, ``summary.json``, ``details.json``, ``ranking.json``, ``differences.json`` and,
    flat, ``.csv``.
    """
    write_cases(tables.rows, folder)
    figures = ("mean", "low", "high", "n")
    flat = [
        [
            *(method, tables.places[place][1], structure, name),
            *(found[name][figure] for figure in figures),
            *((found["p"], found["p_holm"]) if name == "dice_mean" else (None, None)),
            tables.places[place][0],
        ]
        for method, places in tables.differences.items()
        for place, structures in places.items()
        for structure, found in structures.items()
        for name in ("dice_mean", "dice_worst_tenth")
    ]
    columns = ("method", "centre", "structure", "figure", *figures, "p", "p_holm", "model")
    write_text(folder / "differences.csv", csv_text(columns, flat))
    write_json(folder / "summary.json", tables.summary)
    write_json(folder / "details.json", tables.details)
    write_json(folder / "ranking.json", {"harm": HARM, "level": LEVEL, "methods": tables.ranking})
    write_json(folder / "differences.json", tables.differences)


def _number(value: str | int | float) -> str | int | None:
    if not isinstance(value, float):
        return value
    return None if math.isnan(value) else f"{value:.6g}"


def _or_none(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
