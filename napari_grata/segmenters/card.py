"""The model card: what a source segmenter reads, what it finds, and where it comes from.

A model is a folder with ``card.yaml`` and ``weights.safetensors``. This module knows the card
alone and loads no torch, so that models can be listed and matched to scans at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from napari_grata.scans.files import write_bytes

from . import card_rules
from .shift_reference import ShiftReference

if TYPE_CHECKING:
    from napari_grata.scans import Scan

# Named here and not in `loaders`: a card alone needs no loader.
CARD_FILE = "card.yaml"
WEIGHTS_FILE = "weights.safetensors"


class ModelError(ValueError):
    """A model that is not there or cannot be used; the message says what to do."""


class CardError(ModelError):
    """A card that cannot be used; the message lists what is wrong, where, and what to do."""


@dataclass(frozen=True)
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

    name: str
    colour: str
    value: int
    inside: str | None = None


@dataclass(frozen=True)
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
        Input channels: 1 grey, 3 colour.
    size : (int, int) or None
        (rows, columns) to which a picture is letterboxed, keeping its aspect ratio.
    spacing : (float, float) or None
        (row, column) pixel spacing in mm to which a slice is resampled; excludes ``size``.
    normalisation : dict
        ``{"kind": "min-max"}`` per slice, ``{"kind": "unit"}`` by the range of the data type, or
        ``{"kind": "quantile", "low": 0.01, "high": 0.99}`` per case; all end in [0, 1].
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
    shift : ShiftReference or None
        How far the source centre's own scans lie from the model's statistics; None where that
        was not measured. A mapping of its fields is taken too.

    Raises
    ------
    CardError
        With one line per problem.
    """

    name: str
    title: str
    structures: tuple[Structure, ...]
    activation: str = "sigmoid"
    architecture: str = "resunet"
    arguments: dict[str, Any] = field(default_factory=dict)
    channels: int = 3
    size: tuple[int, int] | None = None
    spacing: tuple[float, float] | None = None
    normalisation: dict[str, Any] = field(default_factory=lambda: {"kind": "min-max"})
    modality: str = "fundus"
    dimensions: int = 2
    version: str = "1"
    task: str = ""
    source_centre: str = ""
    training_data: tuple[dict[str, Any], ...] = ()
    results: tuple[dict[str, Any], ...] = ()
    weights_sha256: str | None = None
    intended_use: str = ""
    limits: str = ""
    licence: str = ""
    shift: ShiftReference | None = None

    def __post_init__(self) -> None:
        # Lists are what YAML and people write; tuples are what a frozen record keeps.
        for name in ("structures", "size", "spacing", "training_data", "results"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        problems: list[str] = []
        if isinstance(self.shift, Mapping):
            try:
                object.__setattr__(self, "shift", ShiftReference.from_mapping(self.shift))
            except ValueError as error:
                problems = str(error).splitlines()
                object.__setattr__(self, "shift", None)
        problems += card_rules.problems(self)
        if problems:
            raise CardError(_several(f"The card of the model {str(self.name)!r}", problems))

    @property
    def outputs(self) -> int:
        """Output channels of the network: one per structure, and background with softmax."""
        return len(self.structures) + (self.activation == "softmax")

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
        return tuple(
            sorted(range(len(self.structures)), key=lambda i: (self._depth(self.structures[i]), i))
        )

    def _depth(self, structure: Structure) -> int:
        return 0 if structure.inside is None else 1 + self._depth(self.structure(structure.inside))

    def reads(self) -> str:
        """Say what the model reads: ``"colour photographs of the eye"``."""
        return card_rules.reads(self)

    def fits(self, scan: Scan) -> str | None:
        """Return None if the model can read `scan`, else one sentence that says why not."""
        return card_rules.misfit(self, scan)


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
    mask = label_map == values[0]
    for value in values[1:]:
        mask |= label_map == value
    return mask


def load_card(path: str | Path) -> Card:
    """Read a card from a model folder or from its ``card.yaml``.

    Raises
    ------
    CardError
        The file is missing, is no YAML, or breaks a rule of the card.
    """
    path = Path(path)
    file = path / CARD_FILE if path.is_dir() else path
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CardError(
            f"{file.parent} holds no {CARD_FILE}. A model is a folder with {CARD_FILE} and "
            f"{WEIGHTS_FILE}; those of the bundled models show what a card says."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CardError(f"{file} cannot be read as text ({error}).") from error
    except yaml.YAMLError as error:
        raise CardError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise CardError(f"{file} should hold 'field: value' lines, such as 'name: my-model'.")
    try:
        return _from_mapping(content)
    except CardError as error:
        raise CardError(f"{file}: {error}") from None


def card_to_yaml(card: Card) -> str:
    """Write a card as YAML text; `load_card` reads it back to an equal card."""
    content: dict[str, Any] = {}
    for item in fields(card):
        value = getattr(card, item.name)
        if item.name == "structures":
            value = [
                {k: v for k, v in vars(structure).items() if v is not None} for structure in value
            ]
        elif isinstance(value, ShiftReference):
            value = {k: _Inline(v) if isinstance(v, tuple) else v for k, v in vars(value).items()}
        if item.name != "shift" or value is not None:
            content[item.name] = _plain(value)
    order = ("name", "title", "version", "task")
    head = {key: content.pop(key) for key in order}
    return yaml.dump(
        {**head, **content}, Dumper=_CardDumper, sort_keys=False, allow_unicode=True, width=100
    )


def write_card(folder: Path, card: Card) -> None:
    """Put a card into a model folder, whole; the weights are not touched."""
    write_bytes(folder / CARD_FILE, card_to_yaml(card).encode("utf-8"))


class _Inline(tuple):
    """Numbers that stand on one line."""


class _CardDumper(yaml.SafeDumper):
    """Safe YAML that knows `_Inline`."""


_CardDumper.add_representer(
    _Inline,
    lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True),
)


def _plain(value: Any) -> Any:
    """Tuples and NumPy scalars as the types that safe YAML knows."""
    if isinstance(value, _Inline):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _from_mapping(content: Mapping[str, Any]) -> Card:
    known = {item.name for item in fields(Card)}
    problems = [
        f"{key!r} is no field of a card.{_suggest(str(key), known)}"
        for key in content
        if key not in known
    ]
    problems += [
        f"{key!r} is missing: {hint}."
        for key, hint in card_rules.REQUIRED.items()
        if content.get(key) in (None, "", [], {})
    ]
    structures = content.get("structures") or []
    if not isinstance(structures, list):
        problems.append("'structures' should be a list of '- name: …, colour: …, value: …'.")
        structures = []
    read = [_structure(item, number, problems) for number, item in enumerate(structures, 1)]
    if problems:
        raise CardError(_several("the card", problems))
    values = {key: value for key, value in content.items() if value is not None}
    values["structures"] = tuple(item for item in read if item is not None)
    if isinstance(values.get("version"), (int, float)):
        # YAML reads 1.0 as a number.
        values["version"] = str(values["version"])
    return Card(**values)


def _structure(item: Any, number: int, problems: list[str]) -> Structure | None:
    known = {entry.name for entry in fields(Structure)}
    if not isinstance(item, dict):
        problems.append(f"structure {number} should have name, colour and value.")
        return None
    wrong = [key for key in item if key not in known]
    missing = [key for key in ("name", "colour", "value") if key not in item]
    problems += [f"structure {number}: {key!r} is unknown.{_suggest(key, known)}" for key in wrong]
    problems += [f"structure {number}: {key!r} is missing." for key in missing]
    return None if wrong or missing else Structure(**item)


def _suggest(word: str, known: set[str]) -> str:
    close = difflib.get_close_matches(str(word), sorted(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _several(subject: str, problems: list[str]) -> str:
    if len(problems) == 1:
        return f"{subject}: {problems[0]}"
    return "\n  - ".join([f"{subject} has {len(problems)} problems:", *problems])
