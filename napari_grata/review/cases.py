"""A case of a list, the state it is in, and what is known of it at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from napari_grata.adaptation.records import Flag


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

    key: str
    number: int
    sources: tuple[Path, ...]
    title: str


class CaseState(Enum):
    """Where a case stands; a decision counts more than what the model has done."""

    NEW = "new"
    SEGMENTED = "segmented"
    ADAPTED = "adapted"
    FLAGGED = "flagged"
    ACCEPTED = "accepted"
    KEPT_SOURCE = "kept-source"
    EDITED = "edited"
    REJECTED = "rejected"
    SECOND_READER = "second-reader"
    FAILED = "failed"

    @property
    def title(self) -> str:
        """The state in a clinician's words."""
        return _TITLES[self]

    @property
    def decided(self) -> bool:
        """Whether a person has decided on the case."""
        return self in _DECIDED


_TITLES = {
    CaseState.NEW: "new",
    CaseState.SEGMENTED: "segmented",
    CaseState.ADAPTED: "ready to review",
    CaseState.FLAGGED: "look closely",
    CaseState.ACCEPTED: "accepted",
    CaseState.KEPT_SOURCE: "mask before kept",
    CaseState.EDITED: "being edited",
    CaseState.REJECTED: "rejected",
    CaseState.SECOND_READER: "for a second reader",
    CaseState.FAILED: "could not be done",
}
STATE_OF_VERDICT = {
    "accept": CaseState.ACCEPTED,
    "keep-source": CaseState.KEPT_SOURCE,
    "edit": CaseState.EDITED,
    "reject": CaseState.REJECTED,
    "second-reader": CaseState.SECOND_READER,
}
_DECIDED = frozenset(STATE_OF_VERDICT.values())


@dataclass(frozen=True)
class CountedFlag(Flag):
    """A flag, on how many slices it was seen, and the first of them."""

    count: int = 1
    first_slice: int = 0


@dataclass(frozen=True)
class CaseSummary:
    """What is known of a case without opening it.

    Attributes
    ----------
    segmented, adapted : bool
    flags : tuple of CountedFlag
        Each kind once, those on most slices first.
    flagged_slices : int
    change : float
        1 − mean Dice between before and after over the structures, 0 … 1.
    shift : float or None
        How far the scan lies from the source centre; None where the model cannot tell.
    shift_words : str
    error : str or None
        Why the case could not be done, a sentence; names no file.
    seconds : float
    edited : bool
        A reviewer has drawn on the mask.
    slices : int
    model, weights_sha256, settings : str
        Name and weights of the model, fingerprint of the settings.
    run : str
        Name of the run folder that all this was read from.
    step : int
        Optimiser steps after which the mask was taken.
    scan_sha256 : str
        Fingerprint of the scan, as in ``run.json``.
    files : tuple of (int, int)
        Size and time of change of the case's files then.
    continued_from : str
        Key of the case whose adapted model this one began with; "" for the source model.
    notices : tuple of str
    stale : str
        A sentence where the file has changed since; never written, found out on reading.
    """

    segmented: bool = False
    adapted: bool = False
    flags: tuple[Flag, ...] = ()
    flagged_slices: int = 0
    change: float = 0.0
    shift: float | None = None
    shift_words: str = ""
    error: str | None = None
    seconds: float = 0.0
    edited: bool = False
    slices: int = 0
    model: str = ""
    weights_sha256: str = ""
    settings: str = ""
    run: str = ""
    step: int = 0
    scan_sha256: str = ""
    files: tuple[tuple[int, int], ...] = ()
    continued_from: str = ""
    notices: tuple[str, ...] = ()
    stale: str = ""

    def but(self, **changes: Any) -> CaseSummary:
        """Return a copy with some entries changed."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as written to ``summary.json``."""
        values = asdict(self)
        del values["stale"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CaseSummary:
        """Read what `to_dict` wrote; names of a later version are passed over.

        Raises
        ------
        KeyError, TypeError, ValueError
            If the values are not a summary's.
        """
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        known["flags"] = tuple(
            CountedFlag(
                str(flag["code"]),
                str(flag["text"]),
                int(flag.get("count", 1)),
                int(flag.get("first_slice", 0)),
            )
            for flag in values.get("flags", ())
        )
        known["files"] = tuple((int(size), int(time)) for size, time in values.get("files", ()))
        known["notices"] = tuple(str(notice) for notice in values.get("notices", ()))
        known.pop("stale", None)
        return cls(**known)


@dataclass(frozen=True)
class Progress:
    """How far a list is.

    Attributes
    ----------
    total, decided, prepared, flagged, failed : int
        ``prepared``: adapted, decided on or not. ``flagged``, ``failed``: not yet decided on.
    counts : mapping of CaseState to int
    """

    total: int
    decided: int
    prepared: int
    flagged: int
    failed: int
    counts: Mapping[CaseState, int]


def file_marks(sources: tuple[Path, ...]) -> tuple[tuple[int, int], ...]:
    """Size and time of change (ns) of each file; () where one is not there."""
    try:
        return tuple((found.st_size, found.st_mtime_ns) for found in map(Path.stat, sources))
    except OSError:
        return ()
