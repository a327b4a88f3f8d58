"""Pictures of a run as PNG: its curves, and the slices that changed most, before and after.

Drawn with matplotlib's objects alone: no pyplot, no screen, any thread.
"""

from __future__ import annotations

import io
import itertools
import math
import textwrap
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from napari_grata.scans.files import write_bytes
from napari_grata.segmenters.card import structure_mask

from .choice_record import excerpt
from .choosing import Choice, Row, Weighing
from .compare import (
    DIFFERENCE_COLOURS,
    DIFFERENCE_NAMES,
    difference_map,
    grey_levels,
    summarise,
    without_masks,
)

if TYPE_CHECKING:
    from napari_grata.adaptation import Record
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card

Masks = Mapping[int, np.ndarray]

PANELS_ACROSS = 4
COSINE_COLOUR = "#0072B2"
RATE_COLOUR = "#E69F00"
AUXILIARY_COLOUR = "#009E73"
PSEUDO_COLOUR = "#CC79A7"
FLAG_COLOUR = "#D55E00"
MOST_SLICES = 4
LARGEST_PANEL = 700
"""Pictures are thinned out to about this many pixels a side."""
_DPI = 130
TEXT_COLOUR = "#333333"


def save(figure: Figure, path: str | Path) -> Path:
    """Draw a figure into a PNG file, which appears complete or not at all."""
    FigureCanvasAgg(figure)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=_DPI, format="png")
    write_bytes(path, picture.getvalue())
    return Path(path)


def _only_words(text: str, path: str | Path) -> Path:
    figure = Figure(figsize=(6, 2))
    figure.text(0.5, 0.5, text, ha="center", va="center", color=TEXT_COLOUR)
    return save(figure, path)


# -- curves --------------------------------------------------------------------------------


def curves(records: Iterable[Record], path: str | Path) -> Path:
    """Draw cosine similarity, learning rate and losses against the step, and save them as PNG.

    Parameters
    ----------
    records : iterable of Record
        All of a run; only its steps are drawn. Steps with flags carry a mark, and steps that were
        undone a cross.
    path : path
        PNG to write; an older one is replaced.
    """
    steps = steps_of(records)
    if not steps:
        return _only_words("This method learns nothing: there are no steps to draw.", path)
    figure = Figure(figsize=(8, 5.2), layout="constrained")
    x = np.array([record.step for record in steps])
    style: dict[str, Any] = {"lw": 1.3, "marker": "o", "ms": 3.5 if len(steps) <= 60 else 0}
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    cosine = _column(steps, "cosine")
    has_cosine = any(record.cosine is not None for record in steps)
    rate_axis = upper.twinx() if has_cosine else upper
    rates = _column(steps, "learning_rate")
    highest = np.nanmax(rates, initial=0.0)
    top = 1.08 * float(highest) if highest > 0 else 1.0
    # In the label, for above the axis are the marks of steps.
    power = math.floor(math.log10(top))
    power = 0 if -2 <= power <= 2 else power
    unit = rf" (×$10^{{{power}}}$)" if power else ""
    rate_axis.plot(x, rates / 10.0**power, color=RATE_COLOUR, ls="--", **style)
    rate_axis.set_ylabel(
        f"Learning rate{unit}", color=tuple(0.75 * part for part in to_rgb(RATE_COLOUR))
    )
    rate_axis.set_ylim(0, top / 10.0**power)
    if has_cosine:
        upper.axhline(0, color="#999999", lw=0.8)
        upper.plot(x, cosine, color=COSINE_COLOUR, **style)
        upper.set_ylim(-1, 1)
        upper.set_yticks([-1, -0.5, 0, 0.5, 1])
        upper.set_ylabel("Cosine similarity", color=COSINE_COLOUR)
        upper.set_zorder(rate_axis.get_zorder() + 1)
        upper.patch.set_visible(False)
    for name, label, colour in (
        ("auxiliary_loss", "Auxiliary loss", AUXILIARY_COLOUR),
        ("pseudo_loss", "Pseudo loss", PSEUDO_COLOUR),
    ):
        values = _column(steps, name)
        if np.isfinite(values).any():
            lower.plot(x, values, color=colour, label=label, **style)
    lower.set_ylabel("Loss")
    lower.set_xlabel("Step")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    _mark(upper, steps)
    passes = [b.step - 0.5 for a, b in itertools.pairwise(steps) if a.pass_index != b.pass_index]
    for axes in (upper, lower):
        for place in passes:
            axes.axvline(place, color="#bbbbbb", lw=0.8, ls=":")
        axes.spines["top"].set_visible(False)
        axes.grid(axis="y", color="#e6e6e6", lw=0.6)
        axes.set_axisbelow(True)
        axes.margins(x=0.02)
    rate_axis.spines["top"].set_visible(False)
    handles = [*lower.get_legend_handles_labels()[0], *upper.get_legend_handles_labels()[0]]
    lower.legend(handles=handles, frameon=False, fontsize="small", loc="best")
    figure.suptitle("Adaptation, step by step", fontsize="medium", color=TEXT_COLOUR)
    return save(figure, path)


def steps_of(records: Iterable[Record]) -> list[Record]:
    """Return the records of a run that the curves show."""
    return [
        record
        for record in without_masks(records)
        if record.phase == "adapt" and record.learning_rate is not None
    ]


def _column(steps: Sequence[Record], name: str) -> np.ndarray:
    return np.array([getattr(record, name) for record in steps], dtype=float)


def _mark(axes: Any, steps: Sequence[Record]) -> None:
    """Mark along the top the steps that the user should look at."""
    style: dict[str, Any] = {"clip_on": False, "zorder": 5, "s": 26}
    style["transform"] = axes.get_xaxis_transform()
    flagged = [record.step for record in steps if record.flags and not record.undone]
    undone = [record.step for record in steps if record.undone]
    for found, marker, colour, label in (
        (flagged, "v", FLAG_COLOUR, "flagged"),
        (undone, "x", "black", "undone"),
    ):
        if found:
            height = [1.015] * len(found)
            axes.scatter(found, height, marker=marker, color=colour, label=label, **style)


# -- candidates on reviewed slices ---------------------------------------------------------


def gains(weighing: Weighing, choice: Choice, path: str | Path) -> Path:
    """Draw what each candidate gains over the source mask on the reviewed slices.

    A panel a structure (of many an `excerpt`), a row a candidate: a dot for each reviewed slice,
    and the interval of what is expected on the others; what was chosen is filled. The PNG takes
    the place of an older one.
    """
    whole, weighing = weighing, excerpt(weighing)
    labels = list(dict.fromkeys(_row_label(row) for row in weighing.rows if row.gains))
    labels = [label for label in labels if label != _row_label(weighing.rows[0])]
    if not labels:
        return _only_words("There is nothing to weigh on these slices.", path)
    chosen = {(pick.structure, pick.candidate, pick.shift) for pick in choice.picks}
    count = len(weighing.structures)
    across = min(count, PANELS_ACROSS)
    down = math.ceil(count / across)
    size = (2.6 + 2.9 * across, 1.0 + down * (0.5 + 0.42 * len(labels)))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
    for axes in panels[count:]:
        axes.set_axis_off()
    for axes, structure in zip(panels, weighing.structures, strict=False):
        axes.axvline(0, color="#999999", lw=0.8)
        for row in weighing.rows:
            if row.structure != structure or _row_label(row) not in labels:
                continue
            height = labels.index(_row_label(row))
            taken = (row.structure, row.candidate, row.shift) in chosen
            colour = COSINE_COLOUR if taken else "#777777"
            found = row.estimate
            axes.plot([100 * found.low, 100 * found.high], [height] * 2, color=colour, lw=2.2)
            axes.plot([100 * found.mean], [height], marker="|", ms=12, mew=2, color=colour)
            dots = [100 * gain for gain in row.gains.values()]
            face = colour if taken else "white"
            axes.scatter(dots, [height + 0.22] * len(dots), s=22, color=face, edgecolor=colour)
        axes.set_title(structure, fontsize="medium", color=TEXT_COLOUR)
        axes.set_xlabel("Gain in Dice, points")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#e6e6e6", lw=0.6)
        axes.set_axisbelow(True)
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 0.5, -0.5)
    handles = [
        Line2D([], [], marker="o", ls="", mfc="white", mec="#777777", label="a reviewed slice"),
        Line2D([], [], color="#777777", lw=2.2, label="expected on the others"),
        Line2D([], [], color=COSINE_COLOUR, marker="o", lw=2.2, label="chosen"),
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize="small"
    )
    words = choice.words
    if whole is not weighing:
        words += (
            f" Shown are {count - 1} of {len(whole.structures)} structures, which change most; "
            "the table has all."
        )
    words = "\n".join(textwrap.wrap(words, 30 + 26 * across))
    figure.suptitle(words, fontsize="small", color=TEXT_COLOUR)
    return save(figure, path)


def _row_label(row: Row) -> str:
    return f"{row.title}, threshold {row.shift:+g}" if row.shift else row.title


# -- before and after ----------------------------------------------------------------------


def before_after(scan: Scan, masks: tuple[Masks, Masks], card: Card, path: str | Path) -> Path:
    """Draw the slices that changed most: scan, contours before and after, difference.

    Slices are named by their number, never by file name, for that may name a patient.

    Parameters
    ----------
    masks : (mapping, mapping) of int to ndarray of uint8, shape (H, W)
        Source and adapted masks by slice.
    path : path
        PNG to write; an older one is replaced. If nothing changed, it shows one slice all the same.
    """
    source_masks, adapted_masks = masks
    summary = summarise(scan, card, source_masks, adapted_masks)
    # Neighbouring slices of a volume look alike: take them some way apart.
    apart = len(summary.rows) // 20 if scan.is_stack else 0
    chosen = summary.telling(MOST_SLICES, apart)
    if not chosen:
        return _only_words("There are no masks to draw.", path)
    spacing = scan.slice_spacing or (1.0, 1.0)
    aspect = spacing[0] / spacing[1]
    windows = {i: _window(source_masks[i], adapted_masks[i], aspect) for i in chosen}
    ratios = [(w[2] - w[0]) * aspect / (w[3] - w[1]) for w in windows.values()]
    few, others = summary.least_alike()
    named = {one.name for one in few}
    width, gap = 2.9, 0.45
    heights = [width * min(max(ratio, 0.45), 1.5) for ratio in ratios]
    figure = Figure(figsize=(3 * width + 0.3, sum(heights) + gap * len(heights) + 1.05))
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.03)
    panels = figure.subplots(len(chosen), 3, squeeze=False, height_ratios=heights)
    for row, index in enumerate(chosen):
        view = _View(scan, index, windows[index], aspect)
        source, adapted = source_masks[index], adapted_masks[index]
        for axes in panels[row]:
            view.show(axes)
        for structure in card.structures:
            for mask, dash, thickness in ((source, (0, (3, 2)), 1.2), (adapted, "solid", 1.5)):
                shown = structure_mask(card, mask, structure.name)
                view.contour(panels[row][1], shown, structure.colour, dash, thickness)
        view.fill(panels[row][2], difference_map(source, adapted, card))
        panels[row][0].set_title(scan.place_name(index), fontsize="small", color=TEXT_COLOUR)
        found = next(entry for entry in summary.rows if entry.slice_index == index)
        # No line breaks inside a name or before its figure.
        parts = (f"{one.name} {one.agreement:.2f}" for one in found.structures if one.name in named)
        dice = ", ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts)
        panels[row][1].set_title("before and after", fontsize="small", color=TEXT_COLOUR)
        words = "\n".join(textwrap.wrap(f"Dice {dice}", 46))
        panels[row][2].set_title(f"difference\n{words}", fontsize="x-small", color=TEXT_COLOUR)
    figure.legend(
        handles=_legend(card, named, chosen, source_masks, adapted_masks),
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize="small",
    )
    changed = sum(1 for row in summary.rows if row.changed_pixels)
    words = (
        f"{len(chosen)} of {scan.counts(changed)} that changed" if changed else "Nothing changed"
    )
    if others:
        words += f"; {len(few)} structures are named, which changed most, and {others} are not"
    if len(summary.rows) > 1 or not changed:
        figure.suptitle(words, fontsize="medium", color=TEXT_COLOUR)
    return save(figure, path)


class _View:
    """One slice's window, thinned out to a printable size."""

    def __init__(
        self, scan: Scan, index: int, window: tuple[int, int, int, int], aspect: float
    ) -> None:
        self.rows, self.columns = slice(window[0], window[2]), slice(window[1], window[3])
        longest = max(window[2] - window[0], window[3] - window[1])
        self.stride = max(1, math.ceil(longest / LARGEST_PANEL))
        self.aspect = aspect
        self.image = self._cut(grey_levels(scan.read_slice(index), scan.rgb))

    def _cut(self, array: np.ndarray) -> np.ndarray:
        return array[self.rows, self.columns][:: self.stride, :: self.stride]

    def show(self, axes: Any) -> None:
        axes.imshow(
            self.image, cmap="gray", vmin=0, vmax=255, aspect=self.aspect, interpolation="nearest"
        )
        axes.set_axis_off()

    def contour(self, axes: Any, mask: np.ndarray, colour: str, dash: Any, width: float) -> None:
        shown = self._cut(mask)
        if shown.any():
            padded = np.pad(shown.astype(float), 1)
            rows, columns = padded.shape
            axes.contour(
                np.arange(columns) - 1,
                np.arange(rows) - 1,
                padded,
                levels=[0.5],
                colors=[colour],
                linestyles=[dash],
                linewidths=width,
            )
            axes.set_xlim(-0.5, columns - 2.5)
            axes.set_ylim(rows - 2.5, -0.5)

    def fill(self, axes: Any, difference: np.ndarray) -> None:
        shown = self._cut(difference)
        overlay = np.zeros((*shown.shape, 4))
        for value, colour in DIFFERENCE_COLOURS.items():
            overlay[shown == value] = (*to_rgb(colour), 0.85)
        axes.imshow(overlay, aspect=self.aspect, interpolation="nearest")


def _window(source: np.ndarray, adapted: np.ndarray, aspect: float) -> tuple[int, int, int, int]:
    """Rows and columns around both masks, with some of what lies about them; square in mm."""
    rows, columns = source.shape
    found = np.nonzero((source > 0) | (adapted > 0))
    if not len(found[0]):
        return 0, 0, rows, columns
    top, left = int(found[0].min()), int(found[1].min())
    bottom, right = int(found[0].max()) + 1, int(found[1].max()) + 1
    side = max((bottom - top) * aspect, right - left, 36) * 1.35  # in widths of a pixel
    height, width = min(math.ceil(side / aspect), rows), min(math.ceil(side), columns)
    row0 = min(max(0, (top + bottom - height) // 2), rows - height)
    col0 = min(max(0, (left + right - width) // 2), columns - width)
    return row0, col0, row0 + height, col0 + width


def _legend(
    card: Card,
    named: Container[str],
    chosen: Sequence[int],
    source_masks: Masks,
    adapted_masks: Masks,
) -> list[Any]:
    handles: list[Any] = [
        Line2D([], [], color=structure.colour, lw=2, label=structure.name)
        for structure in card.structures
        if structure.name in named
    ]
    handles += [
        Line2D([], [], color=TEXT_COLOUR, lw=1.2, ls=(0, (3, 2)), label="before"),
        Line2D([], [], color=TEXT_COLOUR, lw=1.5, label="after"),
    ]
    seen = {
        int(value)
        for index in chosen
        for value in np.unique(difference_map(source_masks[index], adapted_masks[index], card))
    }
    handles += [
        Patch(color=colour, label=DIFFERENCE_NAMES[value])
        for value, colour in DIFFERENCE_COLOURS.items()
        if value in seen
    ]
    return handles
