"""The model card: what a source segmenter reads, what it finds, and where it comes from.

A model is a folder with ``card.yaml`` and its weights. This module knows the card alone and loads
no torch, so that models can be listed and matched to scans at once.
"""

from __future__ import annotations

import colorsys
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import numpy as np
import yaml
from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from napari_grata.scans.files import write_bytes

from .card_fields import (
    HINTS,
    Count,
    Digest,
    Positive,
    Text,
    Words,
    card_part,
    shortened,
)
from .card_fields import CardError as CardError
from .card_fields import ModelError as ModelError
from .extent import Extent
from .shift_reference import ShiftReference

if TYPE_CHECKING:
    from napari_grata.scans import Scan

# Named here and not in `loaders`: a card alone needs no loader.
CARD_FILE = "card.yaml"
WEIGHTS_FILE = "weights.safetensors"
#: Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
#: A card of some hundred lines has a few thousand characters.
LARGEST_CARD = 128 * 1024

Plane = Literal["identity", "left-right", "up-down", "rotation-90", "rotation-180", "rotation-270"]
Through = Literal["through", "through-left-right", "through-up-down", "through-rotation-180"]
View = Literal[Plane, Through]
VIEWS: tuple[View, ...] = get_args(Plane)
#: Views of a volume whose planes run the other way, for networks that read volumes.
THROUGH: tuple[View, ...] = get_args(Through)

# Fields without which a card in a file is of no use, though a card in memory has defaults.
_REQUIRED = [
    "name",
    "title",
    "structures",
    "activation",
    "architecture",
    "channels",
    "normalisation",
    "modality",
    "dimensions",
]
_EMPTY: tuple[Any, ...] = (None, "", [], {})
# What a modality is called in a sentence; others are named as the card names them.
_MODALITIES = {
    "fundus": "photographs of the eye",
    "t1": "T1-weighted MR volumes",
    "t2": "T2-weighted MR volumes",
    "ct": "CT volumes",
}


@card_part(at="structures")
class Structure:
    """One thing that a model finds.

    Attributes
    ----------
    name : str
        As a clinician would say it: ``"disc"``, ``"grey matter"``.
    colour : str
        ``"#RRGGBB"``.
    value : int
        Its value in a label map, 1 … 255.
    inside : str or None
        Name of the structure that contains it, such as the disc for the cup. Pixels of a
        contained structure belong to the containing one too.
    """

    name: Words
    colour: Text
    value: Count
    inside: Text | None = None


def _names(*keys: str) -> AfterValidator:
    """Each entry of a list has to say these things."""

    def check(entry: dict[str, Any]) -> dict[str, Any]:
        missing = [key for key in keys if not entry.get(key)]
        if missing:
            raise ValueError("\n".join(f"names no {key!r}." for key in missing))
        return entry

    return AfterValidator(check)


def _normalisation(value: dict[str, Any]) -> dict[str, Any]:
    kind = value.get("kind")
    ends: list[Any] = [value.get("low"), value.get("high")]
    quantiles = all(type(end) in (int, float) for end in ends) and 0 <= ends[0] < ends[1] <= 1
    if kind not in ("min-max", "unit", "planned") and not (kind == "quantile" and quantiles):
        raise ValueError(
            f"normalisation is {shortened(value)}; it should be {HINTS['normalisation']}."
        )
    return value


Normalisation = Annotated[dict[str, Any], AfterValidator(_normalisation)]
Side = Annotated[int, Field(strict=True, ge=32, le=8192, multiple_of=32)]


@card_part()
class Card:
    """Everything that is known about a source segmenter, its weights aside.

    Parameters
    ----------
    name : str
        Short name, also the folder's: small letters, digits, ``-``, ``_``, ``.``.
    title : str
        What the interface shows.
    structures : tuple of Structure
        In the order of the network's outputs (softmax: after the background).
    activation : {"sigmoid", "softmax"}
        Independent structures (one output each), or exclusive classes with background first.
    architecture, arguments : str, dict
        Network name as in `napari_grata.segmenters.loaders`, and its keyword arguments.
        The number of outputs and of channels follows from this card and need not be repeated.
    channels : int
        Input channels: 1 grey, 3 colour, or as many as `inputs`.
    inputs : tuple of str
        What the images are called that are read together, such as T1 and T2; () for one image.
    size : (int, int) or None
        (rows, columns) to which a picture is letterboxed, keeping its aspect ratio.
    spacing : (float, float) or None
        (row, column) pixel spacing in mm to which a slice is resampled; excludes ``size``.
    normalisation : dict
        ``{"kind": "min-max"}`` per slice, ``{"kind": "unit"}`` by the range of the data type, or
        ``{"kind": "quantile", "low": 0.01, "high": 0.99}`` per case; all end in [0, 1].
        ``{"kind": "planned"}``: as the plans of nnU-Net in ``arguments`` say.
    modality : str
        ``"fundus"``, ``"T1"``, ...
    dimensions : {2, 3}
        2: reads pictures; 3: reads volumes, slice by slice.
    training_data : tuple of dict
        Each with ``name`` and ``terms``.
    results : tuple of dict
        Measured figures, each with the ``command`` that measured them.
    weights_sha256 : str or None
        SHA-256 of ``weights.safetensors`` (64 hexadecimal digits); None before they are written.
    views : tuple of str
        Flips and rotations of an image that the model is used to, out of `VIEWS`, and `THROUGH`
        where it reads volumes.
    extents : tuple of Extent
        Usual extent, place and shape of the structures, measured on the training masks.
    shift : ShiftReference or None
        How far the source centre's own scans lie from the model's statistics; None where that
        was not measured. A mapping of its fields is taken too.

    Raises
    ------
    CardError
        With one line per problem.
    """

    name: Annotated[Text, Field(pattern="^[a-z0-9][a-z0-9._-]{0,79}$")]
    title: Words
    structures: Annotated[tuple[Structure, ...], Field(min_length=1)]
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    architecture: Words = "resunet"
    arguments: dict[str, Any] = Field(default_factory=dict)
    channels: Annotated[Count, Field(ge=1, le=64)] = 3
    inputs: tuple[Words, ...] = ()
    size: tuple[Side, Side] | None = None
    spacing: tuple[Positive, Positive] | None = None
    normalisation: Normalisation = Field(default_factory=lambda: {"kind": "min-max"})
    modality: Words = "fundus"
    dimensions: Literal[2, 3] = 2
    version: Words = "1"
    task: Text = ""
    source_centre: Text = ""
    training_data: tuple[Annotated[dict[str, Any], _names("name", "terms")], ...] = ()
    results: tuple[Annotated[dict[str, Any], _names("command")], ...] = ()
    weights_sha256: Digest | None = None
    intended_use: Text = ""
    limits: Text = ""
    licence: Text = ""
    views: tuple[View, ...] = VIEWS
    extents: tuple[Extent, ...] = ()
    shift: ShiftReference | None = None

    @field_validator("shift")
    @classmethod
    def _agree(cls, shift: Any, info: ValidationInfo) -> Any:
        """Check what fields have to do with one another, at the last of them.

        ``info.data`` holds those that are right by themselves, so nearly every problem of a card
        is told at once.
        """
        problems = list(_disagreements({**info.data, "shift": shift}))
        if problems:
            raise ValueError("\n".join(problems))
        return shift

    @property
    def outputs(self) -> int:
        """Output channels of the network: one per structure, and background with softmax."""
        return _outputs(self.structures, self.activation)

    @property
    def patch(self) -> tuple[int, ...] | None:
        """Sides of the part of a volume that the network reads at once; None: it reads slices."""
        return _patch(self.arguments)

    @property
    def colours(self) -> dict[int, str]:
        """Colour of each label value, as `napari_grata.scans.write_mask` takes it."""
        return {structure.value: structure.colour for structure in self.structures}

    def structure(self, name: str) -> Structure:
        """Return the structure called `name`; KeyError names those that there are."""
        for structure in self.structures:
            if structure.name == name:
                return structure
        known = ", ".join(structure.name for structure in self.structures)
        raise KeyError(f"The model {self.name} finds {known}; it has no structure {name!r}.")

    def values_within(self, structure: Structure | str) -> tuple[int, ...]:
        """Label values that belong to `structure`: its own and those of all it contains."""
        name = structure if isinstance(structure, str) else structure.name
        values = [self.structure(name).value]
        for other in self.structures:
            if other.inside == name:
                values.extend(self.values_within(other))
        return tuple(values)

    def painting_order(self) -> tuple[int, ...]:
        """Indices into ``structures``, containing ones before those that they contain."""
        depths = [self._depth(structure) for structure in self.structures]
        return tuple(sorted(range(len(depths)), key=depths.__getitem__))

    def _depth(self, structure: Structure) -> int:
        return 0 if structure.inside is None else 1 + self._depth(self.structure(structure.inside))

    def reads(self) -> str:
        """Say what the model reads, in the plural: ``"colour photographs of the eye"``."""
        phrase = _MODALITIES.get(self.modality.lower())
        if phrase is None:
            phrase = f"{self.modality} {'pictures' if self.dimensions == 2 else 'volumes'}"
        return f"colour {phrase}" if self.channels == 3 and self.dimensions == 2 else phrase

    def fits(self, scan: Scan) -> str | None:
        """Return None if the model can read `scan`, else one sentence that says why not.

        A grey photograph passes for a colour model (its values are repeated in all channels), and
        a single slice for a volume model; whether the scan shows the right organ no file says.
        """
        in_body = not scan.rgb and not scan.is_photographic
        # A picture on its own with a pixel size in mm is a slice, without one a photograph.
        if self.dimensions == 2:
            fits = not in_body or not (scan.is_stack or scan.slice_spacing is not None)
        else:
            fits = in_body
        if fits:
            given = len(scan.channels) + 1
            if given == max(1, len(self.inputs)):
                return None
            if not self.inputs:
                return f"This model reads one image, and not {given} together."
            return (
                f"This model reads {len(self.inputs)} images together ({', '.join(self.inputs)}): "
                f"this is {given}. Choose the others in this order (dock: Images …; command line: "
                "--channel)."
            )
        return f"This model reads {self.reads()}; this scan is {scan.words}."


def _patch(arguments: Mapping[str, Any]) -> tuple[int, ...] | None:
    plan = arguments.get("plan")
    sides = plan.get("patch", ()) if isinstance(plan, Mapping) else ()
    return tuple(sides) if len(sides) == 3 else None


def _outputs(structures: tuple[Structure, ...], activation: str) -> int:
    return len(structures) + (activation == "softmax")


def _disagreements(card: dict[str, Any]) -> Iterator[str]:
    """Say what is wrong between the fields of a card; those that are wrong alone are not there."""
    structures, activation = card.get("structures", ()), card.get("activation")
    yield from _structures(structures, activation)
    expected = {"channels": card.get("channels")}
    inputs = card.get("inputs", ())
    if card.get("channels") not in ((len(inputs),) if inputs else (1, 3, None)):
        yield (
            f"channels is {card['channels']}; it should be 1 (grey), 3 (colour), or as many as "
            "there are names in inputs."
        )
    if inputs and card.get("normalisation") != {"kind": "planned"}:
        yield "inputs, several images together, need a plan: normalisation {kind: planned}."
    if structures and activation:
        expected["outputs"] = _outputs(structures, activation)
    for key, value in expected.items():
        given = card.get("arguments", {}).get(key)
        if value is not None and given not in (None, value):
            yield f"arguments say {key}: {shortened(given)}, but the card needs {value}."
    if card.get("spacing") is not None:
        if card.get("size") is not None:
            yield "size and spacing are both given; keep one (pictures: size, slices: spacing)."
        if card.get("dimensions") == 2:
            yield "spacing needs dimensions: 3; a photograph has no pixel size, use size."
    views, shift = card.get("views", VIEWS), card["shift"]
    if "identity" not in views or len(set(views)) < len(views):
        yield f"views is {shortened(views)}; it should name each view once, with identity."
    if set(views) & set(THROUGH) and _patch(card.get("arguments", {})) is None:
        yield "views through the planes are for networks that read volumes; take them out."
    named = [extent.structure for extent in card.get("extents", ())]
    if len(set(named)) < len(named) or (structures and set(named) - {s.name for s in structures}):
        yield f"extents name {shortened(named)}; each should be a structure of the card, once."
    if shift is not None and card.get("weights_sha256") not in (None, shift.weights):
        yield (
            "shift was measured with other weights than this model's; measure it again "
            "(napari-grata calibrate), or take the block out."
        )


def _structures(structures: tuple[Structure, ...], activation: str | None) -> Iterator[str]:
    for key in ("name", "value"):
        values = [getattr(structure, key) for structure in structures]
        if len(set(values)) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            yield f"two structures have the same {key}, {shortened(twice)}."
    above = {structure.name: structure.inside for structure in structures}
    for one in structures:
        if not re.fullmatch("#[0-9A-Fa-f]{6}", one.colour):
            yield f"{one.name}: colour is {shortened(one.colour)}; it should be '#RRGGBB'."
        if not 1 <= one.value <= 255:
            yield f"{one.name}: value is {one.value}; it should be {HINTS['structures.value']}."
        if one.inside is None:
            continue
        if activation == "softmax":
            yield f"{one.name}: 'inside' has no meaning for exclusive classes (softmax)."
        if one.inside not in above:
            yield f"{one.name} lies inside {shortened(one.inside)}, but there is none of that name."
        inside: str | None = one.inside
        seen: set[str] = set()
        while inside is not None and inside not in seen:
            seen.add(inside)
            inside = above.get(inside)
        if one.name in seen:
            yield f"{one.name} lies inside itself, by way of {one.inside}."


def structure_colours(count: int) -> Iterator[str]:
    """Colours that are told apart: the known ones, then round the circle."""
    for number in range(count):
        if number < len(COLOURS):
            yield COLOURS[number]
        else:
            light, rich = 0.35 + 0.2 * (number % 3), (1.0, 0.5)[number // 3 % 2]
            tones = colorsys.hls_to_rgb(number * 0.618 % 1, light, rich)
            yield "#" + "".join(f"{round(255 * tone):02X}" for tone in tones)


def lacking(card: Card) -> tuple[str, ...]:
    """Return which fields a drafted card says nothing of, as `HINTS` names them."""
    structures = card.structures
    drafted = any(re.fullmatch(r"structure \d+", one.name) for one in structures)
    flat = len(structures) > 1 and card.activation == "sigmoid"
    found = {
        "structures.name": drafted,
        "structures.inside": flat and not any(one.inside for one in structures),
        "source_centre": not card.source_centre or card.source_centre.startswith("not stated"),
        "licence": not card.licence or card.licence.startswith("not stated"),
    }
    return tuple(name for name, missing in found.items() if missing)


def structure_mask(card: Card, label_map: np.ndarray, structure: Structure | str) -> np.ndarray:
    """Return where a label map shows a structure, contained structures included.

    Parameters
    ----------
    card : Card
    label_map : ndarray of int, any shape
        Structure values of the card, 0 for background.
    structure : Structure or str

    Returns
    -------
    ndarray of bool, shape of `label_map`
        With the cup inside the disc: the disc is disc ∪ cup.
    """
    values = card.values_within(structure)
    mask: np.ndarray = label_map == values[0]
    for value in values[1:]:
        mask |= label_map == value
    return mask


# -- files -----------------------------------------------------------------------------------


def load_card(path: str | Path) -> Card:
    """Read a card from a model folder or from its ``card.yaml``.

    Raises
    ------
    CardError
        The file is missing, is too large, is no YAML, or breaks a rule of the card.
    """
    path = Path(path)
    file = path / CARD_FILE if os.path.isdir(path) else path
    try:
        with file.open("rb") as stream:
            raw = stream.read(LARGEST_CARD + 1)
        text = raw.decode("utf-8")
    except FileNotFoundError:
        raise CardError(
            f"{file.parent} holds no {CARD_FILE}. A model is a folder with {CARD_FILE} and "
            f"{WEIGHTS_FILE}; those of the bundled models show what a card says."
        ) from None
    except (OSError, ValueError) as error:
        raise CardError(f"{file} cannot be read as text ({error}).") from error
    if len(raw) > LARGEST_CARD:
        raise CardError(
            f"{file} is longer than {LARGEST_CARD >> 10} KB, which no card is; it is not read."
        )
    try:
        content = yaml.load(text, CardLoader)  # a SafeLoader, with limits
    except Exception as error:  # of its constructors, whatever they meet
        told = str(error)[:500] if isinstance(error, yaml.YAMLError) else "a value has no meaning"
        raise CardError(f"{file} is not valid YAML: {told}") from error
    if not isinstance(content, dict):
        raise CardError(f"{file} should hold 'field: value' lines, such as 'name: my-model'.")
    try:
        return _card(content)
    except CardError as error:
        raise CardError(f"{file}: {error}") from None


def _card(content: Mapping[Any, Any]) -> Card:
    missing = [
        f"{key!r} is missing: {HINTS[key]}." for key in _REQUIRED if content.get(key) in _EMPTY
    ]
    values = {str(key): value for key, value in content.items() if value not in _EMPTY}
    if isinstance(values.get("version"), (int, float)):
        # YAML reads 1.0 as a number.
        values["version"] = str(values["version"])
    try:
        card = Card(**values)
    except CardError as error:
        raise CardError("the card", [*missing, *error.problems]) from None
    if missing:
        raise CardError("the card", missing)
    return card


class CardLoader(yaml.SafeLoader):
    """Safe YAML within limits: no aliases, no deep nests, no dates, no endless numbers."""

    most_deep = 20
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it refers to another place by '*name', which no card needs")
        if self.depth >= self.most_deep:
            raise yaml.YAMLError(f"it is nested more than {self.most_deep} deep")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [child.value for child, _ in node.value if isinstance(child, yaml.ScalarNode)]
        (key, times), *_ = Counter(keys).most_common(1) or [("", 0)]
        if times > 1:
            raise yaml.YAMLError(f"{shortened(key)} is given {times} times")
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: Any) -> int:
        value = super().construct_yaml_int(node)
        if abs(value) >= 2**63:
            raise yaml.YAMLError("it holds a whole number of more than 64 bits")
        return value


CardLoader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in pairs if not tag.endswith(":timestamp")]
    for letter, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
CardLoader.add_constructor("tag:yaml.org,2002:int", CardLoader.construct_yaml_int)


def card_to_yaml(card: Card) -> str:
    """Write a card as YAML text; `load_card` reads it back to an equal card."""
    content = {item.name: plain(getattr(card, item.name)) for item in fields(card)}
    for key in ("shift", "extents", "inputs"):
        if not content[key]:
            del content[key]
    order = ("name", "title", "version", "task")
    head = {key: content.pop(key) for key in order}
    return yaml.dump(
        {**head, **content}, Dumper=_CardDumper, sort_keys=False, allow_unicode=True, width=100
    )


def write_card(folder: Path, card: Card) -> None:
    """Put a card into a model folder, whole; the weights are not touched."""
    write_bytes(folder / CARD_FILE, card_to_yaml(card).encode("utf-8"))


class _CardDumper(yaml.SafeDumper):
    """Safe YAML in which the numbers of a list stand on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _list_node(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.Node:
    numbers = bool(items) and all(isinstance(item, (int, float)) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=numbers)


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # PyYAML writes these as they are, and reads them back as spaces.
    style = '"' if re.search("[\x85\u2028\u2029\ufeff]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_CardDumper.add_representer(list, _list_node)
_CardDumper.add_representer(str, _text_node)


def plain(value: Any) -> Any:
    """Parts, tuples and NumPy scalars as the types that safe YAML knows."""
    if isinstance(value, (Structure, Extent, ShiftReference)):
        found = {item.name: getattr(value, item.name) for item in fields(value)}
        optional = isinstance(value, (Structure, Extent))
        return {k: plain(v) for k, v in found.items() if not (optional and v is None)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value
