"""How much of a case's masks changed, and its small picture: the slice that tells most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from napari_grata.segmenters.card import structure_mask

from .compare import Summary, summarise

if TYPE_CHECKING:
    from napari_grata.adaptation.records import Flag
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card

    from .final_masks import CaseMasks

LONGEST_SIDE = 128


def change_and_picture(
    masks: CaseMasks, card: Card, flags: Mapping[int, tuple[Flag, ...]]
) -> tuple[float, np.ndarray]:
    """Return 1 − mean Dice between source and shown masks over the structures, and a picture."""
    shown = masks.shown()
    table = summarise(masks.scan, card, masks.source, shown, flags)
    agreement = [part.agreement for part in table.total]
    change = 1 - sum(agreement) / len(agreement) if agreement else 0.0
    index = telling_slice(table, masks.scan.n_slices)
    return change, thumbnail(masks.scan, index, card, masks.source, shown)


def telling_slice(summary: Summary, n_slices: int) -> int:
    """Return the slice that changed most; without change the fullest; without masks the middle."""
    changed = summary.most_changed(1)
    if changed:
        return changed[0].slice_index
    filled = [
        (sum(part.source_pixels for part in row.structures), -row.slice_index)
        for row in summary.rows
    ]
    most, negative = max(filled, default=(0, 0))
    return -negative if most else n_slices // 2


def thumbnail(
    scan: Scan,
    index: int,
    card: Card,
    source_masks: Mapping[int, np.ndarray],
    adapted_masks: Mapping[int, np.ndarray],
) -> np.ndarray:
    """Draw a slice, its outline before dotted and after solid, in the structures' colours.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        Pixels are square in millimetres; the longer side has ``LONGEST_SIDE`` pixels at most.
    """
    rows, columns = _grid(scan, index)
    picture = grey_levels(scan.read_slice(index), scan.rgb)[np.ix_(rows, columns)]
    if picture.ndim == 2:
        picture = np.repeat(picture[..., np.newaxis], 3, axis=2)
    dots = np.add.outer(np.arange(len(rows)), np.arange(len(columns))) % 3 == 0
    for masks, pattern in ((source_masks, dots), (adapted_masks, None)):
        if index not in masks:
            continue
        small = np.asarray(masks[index])[np.ix_(rows, columns)]
        for structure in card.structures:
            edge = _edge(structure_mask(card, small, structure))
            picture[edge if pattern is None else edge & pattern] = _rgb(structure.colour)
    return np.ascontiguousarray(picture)


def _grid(scan: Scan, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the slice that the picture shows."""
    height, width = scan.slice_shape(index)
    row_mm, column_mm = scan.slice_spacing or (1.0, 1.0)
    # Never enlarged along the axis of the smaller pixels.
    unit = max(height * row_mm, width * column_mm) / LONGEST_SIDE
    unit = max(unit, min(row_mm, column_mm))
    size = [
        min(LONGEST_SIDE, max(1, round(count * mm / unit)))
        for count, mm in ((height, row_mm), (width, column_mm))
    ]
    return tuple(  # type: ignore[return-value]
        ((np.arange(wanted) + 0.5) * count / wanted).astype(int)
        for wanted, count in zip(size, (height, width), strict=True)
    )


def grey_levels(image: np.ndarray, rgb: bool) -> np.ndarray:
    """Return a slice as uint8 for the eye: half a per cent of the values cut off at either end."""
    if rgb and image.dtype == np.uint8:
        return image
    values = image.astype(np.float32)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return np.zeros(image.shape, np.uint8)
    low, high = (0.0, float(finite.max())) if rgb else np.percentile(finite, [0.5, 99.5])
    scaled = (values - low) / (high - low if high > low else 1.0)
    return (255 * np.nan_to_num(np.clip(scaled, 0, 1))).astype(np.uint8)


def _edge(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask that touch what is not of it."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edge: np.ndarray = mask & ~inner
    return edge


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[place : place + 2], 16) for place in (1, 3, 5))
