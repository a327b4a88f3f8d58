"""What the parts of a model card have in common: typed fields, and problems told in sentences.

A part is a frozen dataclass that pydantic checks. What is wrong with it is raised as a `CardError`
with all problems at once, each saying where, what was found (shortened) and what should be there.
"""

from __future__ import annotations

import difflib
import functools
import reprlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, Strict, ValidationError
from pydantic.dataclasses import dataclass
from typing_extensions import dataclass_transform

T = TypeVar("T")

LONGEST_TEXT = 10_000
Text = Annotated[str, Strict(), Field(max_length=LONGEST_TEXT)]
Words = Annotated[Text, Field(pattern=r"\S")]
Count = Annotated[int, Strict(), Field(ge=0)]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Digest = Annotated[str, Strict(), Field(pattern="^[0-9a-f]{64}$")]

#: What each field should hold, as the end of a sentence.
HINTS = {
    "name": "a short name such as 'fundus-disc-cup' (it is the folder's name too): small letters, "
    "digits, '-', '_' and '.'",
    "title": "what the interface shows, such as 'Fundus: disc and cup'",
    "structures": "a list of what the model finds, each with name, colour '#RRGGBB' and value",
    "structures.name": "what a clinician would call it, such as 'grey matter'",
    "structures.colour": "'#RRGGBB', such as '#56B4E9'",
    "structures.value": "a whole number from 1 to 255",
    "structures.inside": "the name of the structure that contains it, or left out",
    "activation": "'sigmoid' (independent structures) or 'softmax' (exclusive classes)",
    "architecture": "the network, such as 'resunet'",
    "arguments": "'argument: value' lines",
    "channels": "input channels, 1 (grey) or 3 (colour), or as many as inputs",
    "inputs": "names of the images that are read together, such as [T1, T2], or left out",
    "size": "[rows, columns] in pixels, multiples of 32, such as [256, 256], or left out",
    "spacing": "[row, column] in mm, such as [1.0, 1.0], or left out",
    "normalisation": "{kind: min-max}, {kind: unit} or {kind: quantile, low: 0.01, high: 0.99}, "
    "with 0 ≤ low < high ≤ 1",
    "modality": "'fundus', 'T1', ...",
    "dimensions": "2 (pictures) or 3 (volumes, slice by slice)",
    "training_data": "a list of entries with 'name' and 'terms'",
    "results": "a list of figures, each with the 'command' that measured them",
    "weights_sha256": "64 hexadecimal digits (sha256sum weights.safetensors)",
    "source_centre": "where the scans of the training come from: hospital, device, country",
    "licence": "the terms on which the model may be used",
    "views": "a list of identity, left-right, up-down, rotation-90, rotation-180, rotation-270",
    "shift": "'field: value' lines, or left out",
    "shift.quantiles": "21 rising distances (0, 5, 10 … 100 % of the scans)",
    "shift.slice_quantiles": "21 rising distances (0, 5, 10 … 100 % of the slices), or left out",
    "shift.scans": "a whole number, 1 or more",
    "shift.slices": "a whole number, 1 or more",
    "shift.seen": "a whole number, 0 or more",
    "shift.frame": "[rows, columns], multiples of 32",
    "shift.layers": "'layer: distance' lines",
    "shift.weights": "the weights' SHA-256",
    "shift.near": "a multiple of the edge",
    "shift.far": "a multiple of the edge, no smaller than near",
    "extents": "a list of entries with 'structure' and what was measured of it",
}

_TEXT = f"text of at most {LONGEST_TEXT:,} characters"
_MOST_PROBLEMS = 20
_fields: dict[str, list[str]] = {}
_shortener = reprlib.Repr()
_shortener.maxstring = _shortener.maxother = _shortener.maxlong = 60
_shortener.maxlist = _shortener.maxtuple = _shortener.maxdict = 4


class ModelError(ValueError):
    """A model that is not there or cannot be used; the message says what to do."""


class CardError(ModelError):
    """A card that cannot be used; the message lists what is wrong, where, and what to do.

    Parameters
    ----------
    subject : str
        What the problems are of, or the whole sentence where none are listed.
    problems : sequence of str
        One sentence each.
    """

    def __init__(self, subject: str, problems: Sequence[str] = ()) -> None:
        self.problems = tuple(dict.fromkeys(problems))
        lines = list(self.problems[:_MOST_PROBLEMS])
        if len(lines) < len(self.problems):
            lines.append(f"and {len(self.problems) - len(lines)} more.")
        if len(lines) > 1:
            subject += f" has {len(self.problems)} problems:"
        super().__init__(("\n  - " if len(lines) > 1 else ": ").join([subject, *lines]))


def shortened(value: Any) -> str:
    """Show a value as a sentence can carry it: never long, whatever it is."""
    try:
        return _shortener.repr(value)
    except ValueError:  # a whole number of thousands of digits
        return f"a very long {type(value).__name__}"


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def card_part(at: str = "") -> Callable[[type[T]], type[T]]:
    """Make a class a frozen dataclass whose fields are checked.

    Parameters
    ----------
    at : str
        Field of the card that holds such parts; "" for the card itself.
    """

    def decorate(cls: type[T]) -> type[T]:
        config = ConfigDict(extra="forbid", validate_default=True)
        made: Any = dataclass(cls, frozen=True, config=config)
        checked = made.__init__

        @functools.wraps(checked)
        def __init__(self: Any, /, *args: Any, **values: Any) -> None:  # noqa: N807
            try:
                checked(self, *args, **values)
            except ValidationError as error:
                subject = at or "The card of the model"
                if isinstance(values.get("name"), str):
                    subject += f" {shortened(values['name'])}"
                raise CardError(subject, list(_sentences(error, at))) from None

        made.__init__ = __init__
        _fields[at] = [field.name for field in fields(made)]
        return made

    return decorate


def _sentences(error: ValidationError, at: str) -> Iterator[str]:
    for item in error.errors(include_url=False):
        loc = [part for part in item["loc"] if part != "[key]"]
        where, hint = _in_words(loc), _hint([at, *loc] if at else loc)
        inside = f"{_in_words(loc[:-1])}: " if loc[:-1] else ""
        if item["type"] == "value_error":
            # Our own rules are whole sentences, about a field or about one of its entries.
            prefix = f"{where} " if isinstance(loc[-1], int) else ""
            yield from (prefix + line for line in str(item["ctx"]["error"]).splitlines())
        elif item["type"].startswith("unexpected"):
            yield f"{inside}{shortened(loc[-1])} is unknown.{_suggestion([at, *loc])}"
        elif item["type"] == "missing":
            yield f"{inside}{shortened(loc[-1])} is missing: {hint}."
        else:
            yield f"{where} is {shortened(item['input'])}; it should be {hint}."


def _in_words(loc: Sequence[int | str]) -> str:
    """Say a place in a card: ``structures entry 2: colour``."""
    words = [f" entry {part + 1}" if isinstance(part, int) else f": {part[:60]}" for part in loc]
    return "".join(words).removeprefix(": ").strip()


def _hint(loc: Sequence[int | str]) -> str:
    names = [part for part in loc if isinstance(part, str)]
    return HINTS.get(".".join(names[: 2 if names[0] in _fields else 1]), _TEXT)


def _suggestion(loc: Sequence[int | str]) -> str:
    *inside, name = [part for part in loc if isinstance(part, str)]
    close = difflib.get_close_matches(name[:60], _fields.get("".join(inside), []), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
