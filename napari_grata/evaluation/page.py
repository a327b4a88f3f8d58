"""What a benchmark found as pictures, and as one HTML page: nothing from outside, no script.

Dice by case, what a method changes, what it costs, and where it is far from the source centre.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_grata.evaluation.report import BASELINE, HARM, LEVEL, Tables
from napari_grata.scans.files import templates, write_bytes, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORST = 20
"""So many cases that lost most are listed."""
_ACROSS = 6
"""So many methods stand side by side in a picture of slopes."""
#: Okabe and Ito's colours, told apart with any colour vision.
_COLOURS = ("#000000", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7", "#E69F00")
_MARKERS = "os^"
_BETTER, _WORSE = "#0072B2", "#D55E00"


def write_page(
    tables: Tables, description: Mapping[str, Any], notes: Sequence[str], path: Path
) -> None:
    """Write the page.

    Parameters
    ----------
    description : mapping
        What was run, as in ``benchmark.json``. Cases are told by their numbers in it, for their
        names may be patients'.
    """
    others = [one["method"] for one in tables.ranking]
    page = templates("evaluation").get_template("page.html.jinja")
    text = page.render(
        said=description,
        notes=notes,
        harm=-100 * HARM,
        level=LEVEL,
        ranking=tables.ranking,
        header=tables.ranking_lines()[:1],
        rows=tables.ranking_lines()[1:],
        table=tables.lines(full=True),
        worst=_worst(tables, description["centres"]),
        undrawn=len(tables.structures) - len(tables.drawn),
        overview=_picture(overview(tables)),
        slopes=[
            (
                f"{model}, {structure}" if len(tables.models) > 1 else structure,
                _picture(slopes(tables, structure, places, others[first : first + _ACROSS])),
            )
            for model, structure, places in tables.panels
            for first in range(0, len(others), _ACROSS)
        ],
        cost=_picture(gain_against_cost(tables)) if others else "",
        shift=_picture(gain_against_shift(tables, others)) if others and tables.shifts else "",
    )
    write_text(path, text)


def _picture(figure: Figure) -> str:
    """Return a figure as SVG, the same for the same figure."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.hashsalt": "napari-grata", "svg.fonttype": "path"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    # As an image of its own: names inside several SVGs of one page would meet.
    return "data:image/svg+xml;base64," + base64.b64encode(text.getvalue().encode()).decode()


def _worst(tables: Tables, centres: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """Return the cases that lost most: method, centre, number, structure, before, after, lost."""
    found = []
    for method in tables.methods:
        for place, (_, centre) in tables.places.items():
            # Phases of a case (t1, t2, …) are not told apart.
            number = {name: str(index + 1) for index, name in enumerate(centres[centre])}
            for structure in tables.structures:
                source = tables.dice(BASELINE, place, structure)
                for case, after in tables.dice(method, place, structure).items():
                    if case in source and after < source[case]:
                        where = number.get(case, number.get(case.rpartition(" ")[0], "–"))
                        told = (f"{100 * d:.1f}" for d in (source[case], after))
                        row = (method, place, where, structure, *told)
                        found.append((after - source[case], row))
    found.sort(key=lambda one: one[0])
    return [(*row, f"{100 * lost:+.1f}") for lost, row in found[:WORST]]


# -- pictures -----------------------------------------------------------------------------


def plot_benchmark(tables: Tables, path: Path) -> None:
    """Write `overview` as a PNG."""
    picture = io.BytesIO()
    overview(tables).savefig(picture, dpi=120, format="png")
    write_bytes(path, picture.getvalue())


def overview(tables: Tables) -> Figure:
    """Draw a row of axes a structure of a model: Dice of every case, and what methods change.

    Left: a dot a case, a bar at the mean, a dotted one at the worst tenth. Right: mean paired
    difference with its 95 % interval; right of zero is better than the source model.
    """
    panels = tables.panels
    figure, axes = _axes(len(panels), 2, (12, 1.2 + 3.0 * len(panels)), [3, 2])
    styles = _styles(tables)
    colours = {name: colour for name, (colour, _) in styles.items()}
    for (left, right), (model, structure, places) in zip(axes, panels, strict=True):
        _draw_cases(left, tables, structure, places, colours)
        _draw_differences(right, tables, structure, places, styles)
        title = f"{model}, {structure}" if len(tables.models) > 1 else structure
        left.set_title(f"{title}: cases, mean (line), worst tenth (dots)", fontsize="medium")
        right.set_title(f"{title}: worse ← → better", fontsize="medium")
    handles = [
        axes[0, 0].plot([], [], marker, color=colour, label=method)[0]
        for method, (colour, marker) in styles.items()
    ]
    columns = min(len(handles), 7)
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False)
    return figure


def slopes(tables: Tables, structure: str, places: list[str], methods: list[str]) -> Figure:
    """Draw a line a case from the source model's Dice to a method's: what it did to whom.

    Columns are methods, rows places; lines that fall by a point or more are drawn strong.
    """
    size = (1.2 + 1.7 * len(methods), 0.6 + 2.1 * len(places))
    figure, axes = _axes(len(places), len(methods), size, sharey=True)
    for row, place in zip(axes, places, strict=True):
        source = tables.dice(BASELINE, place, structure)
        for axis, method in zip(row, methods, strict=True):
            adapted = tables.dice(method, place, structure)
            pairs = [(source[case], dice) for case, dice in adapted.items() if case in source]
            for before, after in pairs:
                width, alpha = (1.4, 0.9) if after <= before - 0.01 else (0.7, 0.5)
                colour = _WORSE if after < before else _BETTER
                line = [100 * before, 100 * after]
                axis.plot([0, 1], line, color=colour, lw=width, alpha=alpha)
            if pairs:
                axis.plot([0, 1], 100 * np.mean(pairs, 0), color="black", lw=2)
            axis.set_xticks([0, 1], ["source", method], fontsize="x-small")
        row[0].set_ylabel(f"{tables.places[place][1]}\nDice, %", fontsize="small")
    return figure


def gain_against_cost(tables: Tables) -> Figure:
    """Draw mean gain over all cells against seconds a case; below the line a method loses."""
    figure, [[axis]] = _axes(1, 1, (7.5, 4.2))
    styles = _styles(tables)
    for one in tables.ranking:
        if one["seconds"] is None:
            continue
        colour, marker = styles[one["method"]]
        place = max(one["seconds"], 1e-3), 100 * one["mean"]
        axis.plot(*place, marker, color=colour)
        axis.annotate(
            one["method"], place, xytext=(6, 3), textcoords="offset points", fontsize="small"
        )
    axis.axhline(0, color="0.5", lw=0.8)
    axis.set_xscale("log")
    axis.margins(x=0.25, y=0.15)
    axis.set_xlabel("seconds a case, beside the source model's prediction")
    axis.set_ylabel("mean gain over cells, points of Dice")
    return figure


def gain_against_shift(tables: Tables, methods: list[str]) -> Figure:
    """Draw each case's gain against its distance from the source centre, an axis a structure."""
    figure, [axes] = _axes(1, len(tables.drawn), (5.2 * len(tables.drawn), 4.2))
    styles = _styles(tables)
    for axis, structure in zip(axes, tables.drawn, strict=True):
        for method in methods:
            points = [
                (tables.shifts[(*own, case)], 100 * (dice - source[case]))
                for place, own in tables.places.items()
                for source in [tables.dice(BASELINE, place, structure)]
                for case, dice in tables.dice(method, place, structure).items()
                if (*own, case) in tables.shifts and case in source
            ]
            if points:
                colour, marker = styles[method]
                x, y = np.array(points).T
                axis.plot(x, y, marker, color=colour, ms=4, alpha=0.6, label=method)
        axis.axhline(0, color="0.5", lw=0.8)
        axis.set_xlabel("distance from the source centre")
        axis.set_ylabel("gain, points of Dice")
        axis.set_title(structure, fontsize="medium")
    axes[0].legend(fontsize="x-small", frameon=False)
    return figure


def _axes(
    rows: int, columns: int, size: tuple[float, float], widths: Any = None, **more: Any
) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, width_ratios=widths, **more)


def _styles(tables: Tables) -> dict[str, tuple[str, str]]:
    """Return colour and marker of each method."""
    count = len(_COLOURS)
    return {
        name: (_COLOURS[i % count], _MARKERS[i // count % len(_MARKERS)])
        for i, name in enumerate(tables.methods)
    }


def _draw_cases(
    axes: Any, tables: Tables, structure: str, places: list[str], colours: Mapping[str, str]
) -> None:
    rng = np.random.default_rng(0)
    width = 0.8 / max(1, len(tables.methods))
    for column, place in enumerate(places):
        for number, (method, colour) in enumerate(colours.items()):
            dice = [100 * one for one in tables.dice(method, place, structure).values()]
            if not dice:
                continue
            x = column - 0.4 + (number + 0.5) * width
            spread = rng.uniform(-0.25, 0.25, len(dice)) * width
            axes.plot(x + spread, dice, ".", color=colour, alpha=0.35, markersize=4)
            found = tables.summary[method][place][structure]
            for name, half, line in (
                ("dice_mean", 0.45 * width, "-"),
                ("dice_worst_tenth", 0.25 * width, ":"),
            ):
                axes.hlines(100 * found[name], x - half, x + half, color=colour, linestyles=line)
    axes.set_xticks(range(len(places)), [tables.places[place][1] for place in places])
    axes.set_ylabel("Dice, %")


def _draw_differences(
    axes: Any,
    tables: Tables,
    structure: str,
    places: list[str],
    styles: Mapping[str, tuple[str, str]],
) -> None:
    others = [method for method in tables.methods if method != BASELINE]
    for row, place in enumerate(places):
        for number, method in enumerate(others):
            found = tables.difference(method, place, structure)
            if found is None:
                continue
            mean, low, high = (found["dice_mean"][key] for key in ("mean", "low", "high"))
            y = row + (number - (len(others) - 1) / 2) * 0.8 / max(1, len(others))
            colour, marker = styles[method]
            axes.plot(100 * mean, y, marker, color=colour)
            if low is not None:
                axes.hlines(y, 100 * low, 100 * high, color=colour)
    axes.axvline(0, color="0.5", linewidth=0.8)
    axes.set_yticks(range(len(places)), [tables.places[place][1] for place in places])
    axes.invert_yaxis()
    axes.set_xlabel("Dice minus source, points, 95 % interval")
