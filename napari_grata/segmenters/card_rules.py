"""The rules of a model card, and which scans a card fits, as sentences a person can act on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from . import shift_reference

if TYPE_CHECKING:
    from napari_grata.scans import Scan

    from .card import Card, Structure

ACTIVATIONS = ("sigmoid", "softmax")
NORMALISATIONS = ("min-max", "unit", "quantile")

# Fields without which a card in a file is of no use, and what belongs there.
REQUIRED = {
    "name": "a short name such as 'fundus-disc-cup'",
    "title": "what the interface shows, such as 'Fundus: disc and cup'",
    "structures": "what the model finds, each with name, colour '#RRGGBB' and value",
    "activation": "'sigmoid' (independent structures) or 'softmax' (exclusive classes)",
    "architecture": "the network, such as 'resunet'",
    "channels": "input channels, 1 (grey) or 3 (colour)",
    "normalisation": "{kind: min-max}, {kind: unit} or {kind: quantile, low: 0.01, high: 0.99}",
    "modality": "'fundus', 'T1', ...",
    "dimensions": "2 (pictures) or 3 (volumes, slice by slice)",
}

# What a modality is called in a sentence; others are named as the card names them.
_MODALITIES = {
    "fundus": "photographs of the eye",
    "t1": "T1-weighted MR volumes",
    "t2": "T2-weighted MR volumes",
    "ct": "CT volumes",
}


def problems(card: Card) -> list[str]:
    """Return what is wrong with a card, one sentence each; empty if nothing is."""
    found: list[str] = []
    if not _is_name(card.name):
        found.append(
            f"name is {card.name!r}; use small letters, digits, '-', '_' and '.', such as "
            "'fundus-disc-cup' (it is the folder's name too)."
        )
    for key in ("title", "architecture", "modality", "version"):
        value = getattr(card, key)
        if not isinstance(value, str) or not value.strip():
            found.append(f"{key} is {value!r}; it should be text.")
    for key in ("task", "source_centre", "intended_use", "limits", "licence"):
        value = getattr(card, key)
        if not isinstance(value, str):
            found.append(f"{key} is {value!r}; it should be text (or left out).")
    if card.activation not in ACTIVATIONS:
        found.append(f"activation is {card.activation!r}; it should be 'sigmoid' or 'softmax'.")
    if type(card.channels) is not int or card.channels not in (1, 3):
        found.append(f"channels is {card.channels!r}; it should be 1 (grey) or 3 (colour).")
    if type(card.dimensions) is not int or card.dimensions not in (2, 3):
        found.append(
            f"dimensions is {card.dimensions!r}; it should be 2 (pictures) or 3 (volumes)."
        )
    found += _pair(card.size, "size", "[rows, columns] in pixels, such as [256, 256]", whole=True)
    found += _pair(card.spacing, "spacing", "[row, column] in mm, such as [1.0, 1.0]", whole=False)
    if card.size is not None and card.spacing is not None:
        found.append("size and spacing are both given; keep one (pictures: size, slices: spacing).")
    if card.spacing is not None and card.dimensions == 2:
        found.append("spacing needs dimensions: 3; a photograph has no pixel size, use size.")
    found += _normalisation(card.normalisation)
    found += _structures(card.structures, card.activation)
    found += _arguments(card)
    digest = card.weights_sha256
    if digest is not None and not re.fullmatch(r"[0-9a-f]{64}", str(digest)):
        found.append(
            f"weights_sha256 is {digest!r}; it should be 64 hexadecimal digits "
            "(sha256sum weights.safetensors)."
        )
    found += shift_reference.problems(card.shift, digest)
    for key in ("training_data", "results"):
        entries = getattr(card, key)
        if not isinstance(entries, tuple) or not all(isinstance(item, dict) for item in entries):
            found.append(f"{key} should be a list of 'field: value' entries.")
    if not found:
        found += [
            f"training_data entry {number} names no {key!r}."
            for number, item in enumerate(card.training_data, 1)
            for key in ("name", "terms")
            if not item.get(key)
        ]
        found += [
            f"results entry {number} names no 'command': figures need what measured them."
            for number, item in enumerate(card.results, 1)
            if not item.get("command")
        ]
    return found


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and bool(re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,79}", name))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _pair(value: Any, key: str, hint: str, *, whole: bool) -> Iterable[str]:
    if value is None:
        return
    right = isinstance(value, tuple) and len(value) == 2 and all(_is_number(v) for v in value)
    if right and whole:
        right = all(isinstance(v, int) and 32 <= v <= 8192 and v % 32 == 0 for v in value)
        hint += ", multiples of 32"
    if not right or not all(0 < v < float("inf") for v in value):
        yield f"{key} is {value!r}; it should be {hint}, or left out."


def _normalisation(value: Any) -> Iterable[str]:
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind not in NORMALISATIONS:
        yield f"normalisation is {value!r}; it should be {REQUIRED['normalisation']}."
    elif kind == "quantile":
        low, high = value.get("low"), value.get("high")
        if not (_is_number(low) and _is_number(high) and 0 <= low < high <= 1):
            yield f"normalisation runs from {low!r} to {high!r}; it needs 0 ≤ low < high ≤ 1."


def _structures(structures: Any, activation: str) -> Iterable[str]:
    if not isinstance(structures, tuple) or not structures:
        yield f"structures is empty; list {REQUIRED['structures']}."
        return
    odd = [s for s in structures if not _is_named(s)]
    if odd:
        yield from (
            f"structures: {s!r}: name (and inside, where given) should be text." for s in odd
        )
        return
    names = [structure.name for structure in structures]
    values = [str(structure.value) for structure in structures]
    if len(set(names)) < len(names):
        yield f"two structures have the same name ({', '.join(names)})."
    if len(set(values)) < len(values):
        yield f"two structures have the same value ({', '.join(values)})."
    by_name = {structure.name: structure for structure in structures}
    for structure in structures:
        yield from _structure(structure, by_name, activation)


def _is_named(structure: Any) -> bool:
    name, inside = getattr(structure, "name", None), getattr(structure, "inside", None)
    return isinstance(name, str) and bool(name.strip()) and isinstance(inside, (str, type(None)))


def _structure(
    structure: Structure, by_name: dict[str, Structure], activation: str
) -> Iterable[str]:
    name = structure.name
    if not re.fullmatch(r"#[0-9A-Fa-f]{6}", str(structure.colour)):
        yield f"{name}: colour is {structure.colour!r}; write it as '#RRGGBB', such as '#56B4E9'."
    if type(structure.value) is not int or not 1 <= structure.value <= 255:
        yield f"{name}: value is {structure.value!r}; use a whole number from 1 to 255."
    if structure.inside is None:
        return
    if activation == "softmax":
        yield f"{name}: 'inside' has no meaning for exclusive classes (softmax); leave it out."
    if structure.inside not in by_name:
        yield f"{name} lies inside {structure.inside!r}, but no structure has that name."
        return
    seen = {name}
    above: Structure | None = structure
    while above is not None and above.inside is not None:
        above = by_name.get(above.inside)
        if above is not None and above.name in seen:
            yield f"{name} lies inside itself, by way of {structure.inside}."
            return
        if above is not None:
            seen.add(above.name)


def _arguments(card: Card) -> Iterable[str]:
    if not isinstance(card.arguments, dict):
        yield f"arguments is {card.arguments!r}; it should be 'argument: value' lines."
        return
    outputs = card.arguments.get("outputs")
    if outputs is not None and isinstance(card.structures, tuple) and outputs != card.outputs:
        yield (
            f"arguments say outputs: {outputs}, but {len(card.structures)} structures with "
            f"{card.activation} need {card.outputs}."
        )
    channels = card.arguments.get("channels")
    if channels is not None and channels != card.channels:
        yield f"arguments say channels: {channels}, but the card says {card.channels}."


def reads(card: Card) -> str:
    """Say what a card's model reads, in the plural: ``"colour photographs of the eye"``."""
    phrase = _MODALITIES.get(card.modality.lower())
    if phrase is None:
        phrase = f"{card.modality} {'pictures' if card.dimensions == 2 else 'volumes'}"
    return f"colour {phrase}" if card.channels == 3 and card.dimensions == 2 else phrase


def misfit(card: Card, scan: Scan) -> str | None:
    """Return None if the card's model can read `scan`, else one sentence that says why not.

    A grey photograph passes for a colour model (its values are repeated in all channels), and
    a single slice for a volume model; whether the scan shows the right organ no file says.
    """
    volume = scan.kind in ("volume", "series") and not scan.rgb
    # A picture on its own with a pixel size in mm is a slice, without one it is a photograph.
    slice_of_volume = scan.kind == "image" and not scan.rgb and scan.slice_spacing is not None
    if card.dimensions == 2:
        fits = not volume and not slice_of_volume
    else:
        fits = not scan.rgb and scan.kind not in ("photograph", "photographs")
    if fits:
        return None
    return f"This model reads {reads(card)}; this scan is {_says(scan)}."


def _says(scan: Scan) -> str:
    colour = "colour" if scan.rgb else "grey"
    return {
        "photograph": f"a {colour} photograph",
        "photographs": f"a list of {colour} photographs",
        "image": f"a single {colour} {'picture' if scan.rgb else 'slice'}",
        "volume": f"a volume of {colour} slices",
        "series": f"a series of volumes of {colour} slices",
    }.get(scan.kind, f"a {scan.kind}")
