"""A benchmark as one HTML page: text, tables and pictures, nothing from outside, no script."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_grata.evaluation.figures import (
    as_svg,
    gain_against_cost,
    gain_against_shift,
    overview,
    slopes,
)
from napari_grata.evaluation.report import BASELINE, HARM, LEVEL, Tables
from napari_grata.scans.files import templates, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORST = 20
"""So many cases that lost most are listed."""
_ACROSS = 6
"""So many methods stand side by side in a picture of slopes."""


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
    # As an image of its own: names inside several SVGs of one page would meet.
    return "data:image/svg+xml;base64," + base64.b64encode(as_svg(figure).encode()).decode()


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
