"""What a list holds: cases, the state each is in, what is known of it, decisions and drawings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, NonNegativeInt

from napari_grata.adaptation.records import Flag
from napari_grata.scans.files import identifier

LONGEST_INITIALS = 5
Verdict = Literal["accept", "keep-source", "edit", "reject", "second-reader"]
Difficulty = Literal["", "easy", "moderate", "hard"]
VERDICTS: tuple[str, ...] = get_args(Verdict)
DIFFICULTIES: tuple[str, ...] = get_args(Difficulty)
CaseKey = Annotated[str, AfterValidator(lambda value: identifier(value, "case"))]


class ListError(ValueError):
    """A list of cases that cannot be made, read or written; the message says what to do."""


class DecisionError(ListError):
    """A decision that is not allowed, or could not be written.

    Attributes
    ----------
    kept : bool
        Whether the decision is in force in memory, waiting to be written.
    """

    def __init__(self, message: str, *, kept: bool = False) -> None:
        super().__init__(message)
        self.kept = kept


@dataclass(frozen=True)
class Case:
    """One case of a list.

    Attributes
    ----------
    key : str
        Its code, ``case-0001``: never changes, and names its folder.
    number : int
        From 1, as in the key.
    sources : tuple of Path
        The file, or the photographs that are looked at together; () for a scan from no file.
    title : str
        The file's name, for the screen alone: it may name a patient.
    """

    key: CaseKey
    number: int
    sources: tuple[Path, ...]
    title: str

    @property
    def marks(self) -> tuple[tuple[int, int], ...]:
        """Size and time of change (ns) of each file; () where one is not there."""
        try:
            found = [path.stat() for path in self.sources]
        except (OSError, ValueError):
            return ()
        return tuple((one.st_size, one.st_mtime_ns) for one in found)


class CaseState(Enum):
    """Where a case stands, in a clinician's words; a decision counts more than the model's work."""

    NEW = "new"
    SEGMENTED = "segmented"
    ADAPTED = "ready to review"
    FLAGGED = "look closely"
    EDITED = "being edited"
    SECOND_READER = "for a second reader"
    REJECTED = "rejected"
    ACCEPTED = "accepted"
    KEPT_SOURCE = "mask before kept"
    FAILED = "could not be done"

    @property
    def decided(self) -> bool:
        """Whether a user has decided on the case; one that is being edited is not decided."""
        return self is not CaseState.EDITED and self in STATE_OF_VERDICT.values()


STATE_OF_VERDICT = {
    "edit": CaseState.EDITED,
    "second-reader": CaseState.SECOND_READER,
    "reject": CaseState.REJECTED,
    "accept": CaseState.ACCEPTED,
    "keep-source": CaseState.KEPT_SOURCE,
}
"""Where the slices of a case were decided on differently, the first of these is its state."""


@dataclass(frozen=True)
class CountedFlag(Flag):
    """A flag, and on how many slices it was seen."""

    count: int = 1


@dataclass(frozen=True)
class CaseSummary:
    """What is known of a case without opening it.

    Attributes
    ----------
    flags : tuple of CountedFlag
        Each kind once, those on most slices first.
    change : float
        1 − mean Dice between source and adapted masks, with what was drawn on these, over the
        structures, 0 … 1.
    shift : float or None
        How far the scan lies from the source centre; None where the model cannot tell.
    error : str or None
        Why the case could not be done, a sentence; names no file.
    edited : bool
        The user has drawn on the masks that there are now.
    slices : int
        How many have an adapted mask.
    run : str
        Name of the run folder that all this was read from.
    scan_sha256 : str
        Fingerprint of the scan.
    files : tuple of (int, int)
        Size and time of change of the case's files then.
    choice : str
        Mark of the list's carried choice that has been seen to; see `carried`.
    stale : str
        A sentence where the file has changed since; never written, found out on reading.
    """

    segmented: bool = False
    adapted: bool = False
    flags: tuple[CountedFlag, ...] = ()
    flagged_slices: int = 0
    change: float = 0.0
    shift: float | None = None
    shift_words: str = ""
    error: str | None = None
    edited: bool = False
    slices: int = 0
    model: str = ""
    weights_sha256: str = ""
    run: str = ""
    scan_sha256: str = ""
    files: tuple[tuple[int, int], ...] = ()
    choice: str = ""
    stale: str = ""

    def but(self, **changes: Any) -> CaseSummary:
        """Return a copy with some entries changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class DecidedMask:
    """Which mask a decision is about, and what that was made with.

    Attributes
    ----------
    kind : str
        ``source``, ``adapted``, ``edited`` (adapted, with what was drawn on it) or "" where
        there is none.
    run : str
        Name of the run folder.
    step : int
        Optimiser steps after which an adapted mask was taken.
    edit : int
        Version of the drawing; 0 without one.
    digest : str
        Fingerprint of the mask itself, of the slice or the whole stack that was decided on.
    """

    kind: Literal["", "source", "adapted", "edited"] = ""
    run: str = ""
    step: NonNegativeInt = 0
    edit: NonNegativeInt = 0
    digest: str = ""
    model: str = ""
    weights_sha256: str = ""
    settings: str = ""
    scan_sha256: str = ""

    @property
    def words(self) -> str:
        """Which mask it is, as a phrase."""
        return {
            "": "no mask",
            "source": "mask before",
            "adapted": f"mask after step {self.step}",
            "edited": f"mask after step {self.step} with drawing {self.edit}",
        }[self.kind]

    def but(self, **changes: Any) -> DecidedMask:
        """Return a copy with some entries changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Decision:
    """One decision of one user.

    Attributes
    ----------
    number : int
        Of its row in the list's file, from 1; that of one that waits to be written may change.
    time : str
        UTC, ISO 8601.
    case : str
        Code of the case, such as ``"case-0001"``.
    slice_index : int or None
        Flat slice number; None for the whole case.
    verdict : str
        One of ``VERDICTS``.
    comment : str
        Free words of the user; never a patient's name.
    difficulty : str
        One of ``DIFFICULTIES``.
    reviewer : str
        Initials, at most five letters.
    mask : DecidedMask
        What was decided on.
    undone : bool
        Whether it has been taken back.
    """

    number: int
    time: str
    case: CaseKey
    slice_index: NonNegativeInt | None
    verdict: Verdict
    comment: str = ""
    difficulty: Difficulty = ""
    reviewer: str = ""
    mask: DecidedMask = field(default_factory=DecidedMask)
    undone: bool = False


@dataclass(frozen=True)
class EditVersion:
    """One version of what the user drew on a case, from 1.

    ``base`` is the fingerprint of the mask that it was drawn over, "" where that is not known;
    ``sha256`` that of its bytes in the row of the list's file where it lies.
    """

    number: int
    base: str
    scan_sha256: str
    sha256: str
    row: int


@dataclass(frozen=True)
class Progress:
    """How far a list is.

    Attributes
    ----------
    total, decided, prepared, flagged, failed : int
        ``prepared``: adapted, decided on or not. ``flagged``, ``failed``: not yet decided on.
    """

    total: int
    decided: int
    prepared: int
    flagged: int
    failed: int


@dataclass(frozen=True)
class RecentList:
    """A list that was worked on before.

    Attributes
    ----------
    title : str
        Name of the folder or file the cases came from; for the screen alone.
    when : str
        UTC, ISO 8601, of the last work on it.
    problem : str
        Why it cannot be opened, "" if it can.
    """

    folder: Path
    title: str
    when: str
    cases: int = 0
    decided: int = 0
    problem: str = ""


def digest(values: Mapping[str, Any]) -> str:
    """Return a short fingerprint of plain values, such as settings: 16 hexadecimal digits."""
    text = json.dumps(values, sort_keys=True, default=str)
    return sha256(text.encode("utf-8")).hexdigest()[:16]


def now() -> str:
    """Return the time in UTC, ISO 8601, to the millisecond."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
