"""Tables and the picture of ``benchmarks/corrections.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from napari_grata.evaluation import worst_tenth


def print_table(rows: list[Any], count: int, order: tuple[str, ...]) -> None:
    """Print what each method gains with so many corrected ones."""
    print("| part | structure | no correction | " + " | ".join(order) + " |")
    print("|---" * (3 + len(order)) + "|")
    bases = {part.name: base for part, _, k, _, base in rows if k == count}
    found = {(part.name, name): dice for part, name, k, dice, _ in rows if k == count}
    for part, base in bases.items():
        for structure, values in base.items():
            cells = [f"{100 * float(np.mean(values)):.1f}"]
            if len(values) > 1:
                cells[0] += f" ({100 * worst_tenth(values):.1f})"
            for name in order:
                mine = found.get((part, name), {}).get(structure)
                if mine is None:
                    cells.append("")
                    continue
                cell = f"{100 * float(np.mean(mine) - np.mean(values)):+.1f}"
                if len(values) > 1:
                    cell += f" ({100 * (worst_tenth(mine) - worst_tenth(values)):+.1f})"
                cells.append(cell)
            print(f"| {part} | {structure} | " + " | ".join(cells) + " |")
    if len(bases) > 1:
        _summary(bases, found, order)


def _summary(bases: dict[str, Any], found: dict[Any, Any], order: tuple[str, ...]) -> None:
    """Print each method's mean gain, structures equal in a part and parts in the whole."""
    means, worst = [], []
    for name in order:
        gains = [
            [100 * float(np.mean(found[part, name][s]) - np.mean(base[s])) for s in base]
            for part, base in bases.items()
            if (part, name) in found
        ]
        complete = len(gains) == len(bases)
        means.append(f"{np.mean([np.mean(one) for one in gains]):+.2f}" if complete else "")
        worst.append(f"{min(min(one) for one in gains):+.1f}" if complete else "")
    print("| mean of all parts | | | " + " | ".join(means) + " |")
    print("| largest loss | | | " + " | ".join(worst) + " |")


COLOURS = ("#009E73", "#56B4E9", "#D55E00", "#E69F00", "#0072B2", "#CC79A7", "#000000")
BELOW, ABOVE = 6.0, 8.0
"""Points around the start that the picture shows; what leaves it below is marked at the edge."""


def draw(curves: dict[str, Any], parts: list[str], order: tuple[str, ...], path: Path) -> None:
    """Curves of Dice against the number of corrected ones: a row a part, a column a structure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.9 * len(parts) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(parts), 3, squeeze=False)
    for row, part in zip(axes, parts, strict=True):
        structures = list(next(iter(curves[part].values())))
        for axis in row[len(structures) :]:
            axis.set_axis_off()
        for axis, structure in zip(row, structures, strict=False):
            _curve(axis, f"{part}: {structure}", structure, curves[part], order)
    handles = [
        axes[0, 0].plot([], [], *_style(name), color=colour, label=name)[0]
        for name, colour in zip(order, COLOURS, strict=True)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=100)


def _style(name: str) -> tuple[str]:
    return ("--",) if name.startswith(("all", "plain")) else ("-",)


def _curve(
    axis: Any, title: str, structure: str, methods: dict[str, Any], order: tuple[str, ...]
) -> None:
    start = 100 * float(np.mean(next(iter(methods.values()))[structure][0]))
    floor = start - BELOW
    lowest, highest = start - 1.0, start + 1.0
    for name, colour in zip(order, COLOURS, strict=True):
        by_count = methods[name][structure]
        counts = sorted(by_count)
        means = [100 * float(np.mean(by_count[count])) for count in counts]
        shown = [max(mean, floor) for mean in means]
        lowest, highest = min(lowest, *shown), max(highest, *shown)
        axis.plot(counts, shown, *_style(name), marker="o", markersize=4, color=colour)
        for count, mean in zip(counts, means, strict=True):
            if mean < floor:
                axis.annotate(f"{mean:.0f}", (count, floor), fontsize=7, color=colour)
    axis.axhline(start, color="0.6", linewidth=0.8)
    axis.set_ylim(lowest - 0.4, min(highest, start + ABOVE) + 0.4)
    axis.set_title(title, fontsize="medium")
    axis.set_xlabel("corrected, a few strokes each")
    axis.set_ylabel("Dice on the others, %")
