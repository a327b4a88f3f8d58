"""Which mask a decision is about, which masks are final, and how they are taken out of a list."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_grata.scans.files import (
    FileError,
    make_folder,
    name_of_case,
    nameless,
    stem,
    write_csv,
)
from napari_grata.scans.masks import mask_target
from napari_grata.scans.readers import is_scan_file
from napari_grata.scans.scan import Label

from .cases import Case, CaseSummary, DecidedMask, Decision

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card

    from .case_list import CaseList

ABOUT = {"keep-source": "source", "edit": "adapted"}
"""Which mask a verdict is about; every other one is about what was shown: the adapted mask, with
whatever was drawn on it."""
_NOT_FINAL = {
    "reject": "rejected",
    "edit": "left in editing: accept the drawing when it is done",
    "second-reader": "left to a second reader",
}
TABLE_FILE = "cases.csv"


def as_labels(mask: np.ndarray) -> np.ndarray:
    """Return label values 0 … 65535 in the smallest type that holds them, contiguous."""
    small = mask.size == 0 or int(mask.max()) <= 255
    return np.ascontiguousarray(mask, dtype=np.uint8 if small else np.uint16)


def mask_digest(mask: np.ndarray) -> str:
    """Return a fingerprint of a label map or stack: 16 hexadecimal digits."""
    plain = as_labels(mask)
    found = hashlib.sha256(repr(plain.shape).encode())
    found.update(plain.data)
    return found.hexdigest()[:16]


class CaseMasks:
    """The masks of one case as they are now.

    Parameters
    ----------
    source, adapted : mapping of int to ndarray of uint8, shape (H, W)
    edited : ndarray of int, shape ``scan.mask_shape``, optional
        What the user drew on the adapted mask.

    Attributes
    ----------
    slices : list of int
        Those with an adapted mask, and those that only a user has drawn on.
    """

    def __init__(
        self,
        scan: Scan,
        source: Mapping[int, np.ndarray],
        adapted: Mapping[int, np.ndarray],
        *,
        edited: np.ndarray | None = None,
    ) -> None:
        self.scan, self.source, self.adapted, self.edited = scan, source, adapted, edited
        both = {"source": source, "adapted": adapted}
        self._stacks = {which: scan.mask_stack(of.items()) for which, of in both.items()}
        self._stacks["shown"] = self._stacks["adapted"] if edited is None else edited
        self.slices = sorted({*adapted, *self.drawn()})

    def with_drawing(self, edited: np.ndarray) -> CaseMasks:
        """Return the same masks with something else drawn on them."""
        return CaseMasks(self.scan, self.source, self.adapted, edited=edited)

    def mask(self, verdict: str, index: int | None) -> np.ndarray:
        """Return the mask that a verdict is about: a slice, or (None) the whole stack."""
        stack = self._stacks[ABOUT.get(verdict, "shown")]
        return stack if index is None else self.scan.get_mask(stack, index)

    def shown(self) -> dict[int, np.ndarray]:
        """Return the masks that `accept` is about, of all slices that have one."""
        return {index: self.mask("accept", index) for index in self.slices}

    def drawn(self) -> dict[int, np.ndarray]:
        """Return the masks of the slices that a user has drawn on."""
        if self.edited is None:
            return {}
        pairs = (
            (index, self.mask("accept", index), self.mask("edit", index))
            for index in range(self.scan.n_slices)
        )
        return {index: now for index, now, after in pairs if not np.array_equal(now, after)}


def is_stale(decision: Decision, masks: CaseMasks | None, now: DecidedMask) -> bool:
    """Whether the mask is another one now (`CaseList.mask_now`) than when this was decided.

    Without the masks, and for decisions without a fingerprint of their mask, run, step and version
    of the drawing are compared.
    """
    then = decision.mask
    if masks is not None and then.digest:
        return mask_digest(masks.mask(decision.verdict, decision.slice_index)) != then.digest
    if then.scan_sha256 and then.scan_sha256 != now.scan_sha256:
        return True
    # The source mask does not change with a new run or a stroke.
    if decision.verdict == "keep-source" or not then.kind:
        return False
    return (then.run, then.step, then.edit) != (now.run, now.step, now.edit)


@dataclass(frozen=True)
class Standing:
    """What a case came to.

    Attributes
    ----------
    stack : ndarray of uint8, shape ``scan.mask_shape``, or None
        The final masks; None while they may not be used.
    reason : str
        Why there are none, as a sentence; empty where there are.
    verdicts : mapping of str to int
        How many slices each verdict stands for.
    slices : (int, int)
        How many slices the final masks cover, of how many; on the others they are empty.
    """

    stack: np.ndarray | None
    reason: str = ""
    verdicts: Mapping[str, int] | None = None
    slices: tuple[int, int] = (0, 0)


def final_masks(
    masks: CaseMasks, decisions: Mapping[int | None, Decision], now: DecidedMask
) -> Standing:
    """Put together the masks that a user decided for, slice by slice.

    A decision on a slice comes before one on the whole case. Nothing undecided, rejected, still
    being edited, left to a second reader, or decided on another mask than the one there is now is
    ever passed off as final: then there are no final masks, and a reason. ``decisions`` and ``now``
    are those of `CaseList.decisions` and `CaseList.mask_now`.
    """
    whole = decisions.get(None)
    total = len(masks.slices)
    if not total:
        return Standing(None, "It has not been adapted yet.")
    chosen = {index: decisions.get(index, whole) for index in masks.slices}
    made = {index: decision for index, decision in chosen.items() if decision is not None}
    if not made:
        return Standing(None, "Nothing has been decided yet.")
    verdicts = dict(Counter(str(decision.verdict) for decision in made.values()))
    if len(made) < total:
        left = total - len(made)
        have = "has" if left == 1 else "have"
        return Standing(None, f"{left} of {total} slices {have} not been decided on.", verdicts)
    # Each decision once: one on the whole case looks at the whole stack.
    for decision in {decision.number: decision for decision in made.values()}.values():
        if is_stale(decision, masks, now):
            words = "The mask was changed after the decision: look again and decide."
            return Standing(None, words, verdicts)
    for verdict, words in _NOT_FINAL.items():
        if count := verdicts.get(verdict):
            some = f"{count} of {total} slices {'was' if count == 1 else 'were'}"
            return Standing(None, f"{'It was' if count == total else some} {words}.", verdicts)
    stack = masks.scan.mask_stack((i, masks.mask(one.verdict, i)) for i, one in made.items())
    return Standing(stack, "", verdicts, (total, masks.scan.n_slices))


# -- taken out of a list -------------------------------------------------------------------


@dataclass(frozen=True)
class Exported:
    """What became of one case.

    Attributes
    ----------
    path : Path or None
        The mask that was written; a folder of masks for a list of photographs.
    reason : str
        Why none was, as a sentence.
    """

    key: str
    path: Path | None
    reason: str = ""


def export_masks(
    cases: CaseList,
    folder: Path,
    *,
    scan_names: bool = False,
    mask_format: str = "",
) -> Iterator[Exported]:
    """Write the final mask of every case that has one, and ``cases.csv`` at the end.

    Parameters
    ----------
    folder : Path
        Made where it is not there.
    scan_names : bool
        Name masks after their scans (which may name patients) instead of by the cases' codes.
    mask_format : str
        One of `napari_grata.scans.masks.FORMATS`; "" for each scan's usual one.

    Yields
    ------
    Exported
        One a case, in the list's order.

    Raises
    ------
    FileError
        Before anything is written, if a mask is there already; or where a file cannot be written.
    ScanError
        If a mask cannot be written; masks that were written before stay.
    """
    folder = make_folder(folder)
    there = [p for p in folder.iterdir() if p.name == TABLE_FILE or is_scan_file(p)]
    if there:
        hint = "Choose an empty folder: nothing is overwritten."
        raise FileError("it holds masks already", folder, hint)
    rows = []
    taken: set[str] = set()
    for case in cases.cases:
        name = name_of_case(case.number, stem(case.sources[0]), scan_names=scan_names)
        if name.lower() in taken:
            # Two scans of one name in different folders, or on a disk that ignores case.
            name = f"{name}-{case.key}"
        taken.add(name.lower())
        found, path = _export(cases, case, folder, name, scan_names, mask_format)
        rows.append(_row(cases, case, found, path))
        yield Exported(case.key, path, found.reason)
    columns = [*rows[0]] if rows else []
    write_csv(folder / TABLE_FILE, columns, ([*row.values()] for row in rows))


def legend_of(card: Card) -> dict[int, Label]:
    """Names, colours and parts of a card's structures, by their label values."""
    return {
        one.value: Label(
            one.name, one.colour, tuple(v for v in card.values_within(one) if v != one.value)
        )
        for one in card.structures
    }


def _export(
    cases: CaseList,
    case: Case,
    folder: Path,
    name: str,
    scan_names: bool,
    mask_format: str,
) -> tuple[Standing, Path | None]:
    from napari_grata.adaptation import RunFolderError
    from napari_grata.scans import ScanError, open_scan, write_mask
    from napari_grata.segmenters import load_card

    try:
        scan = open_scan(case.sources)
        found = cases.standing(case.key, scan)
    except (ScanError, RunFolderError, OSError, IndexError):
        return Standing(None, cases.problem(case) or "Its scan or its run cannot be read."), None
    if found.stack is None:
        return found, None
    run = cases.work(case).run_folder
    target = mask_target(scan, folder, name, mask_format)
    write_mask(
        found.stack,
        scan,
        target,
        legend={} if run is None else legend_of(load_card(run)),
        scan_names=scan_names,
    )
    return found, target


def _row(cases: CaseList, case: Case, found: Standing, path: Path | None) -> dict[str, Any]:
    """Return a case's line of ``cases.csv``."""
    summary, decision = cases.summary(case.key), cases.decisions(case.key).get(None)
    there = summary or CaseSummary()
    return {
        "case": case.key,
        "state": cases.state(case.key).value,
        "mask": path and path.name,
        "why there is none": nameless(found.reason, case.sources, case.key),
        "slices with a mask": path and "{} of {}".format(*found.slices),
        "verdicts (slices)": ", ".join(f"{k} {n}" for k, n in (found.verdicts or {}).items()),
        "reviewer": decision and decision.reviewer,
        "difficulty": decision and decision.difficulty,
        "decided (UTC)": decision and decision.time,
        "comment": decision and decision.comment,
        "change": f"{there.change:.4f}" if there.adapted else "",
        "flagged slices": summary and summary.flagged_slices,
        "shift": "" if there.shift is None else f"{there.shift:.3f}",
        "model": there.model,
        "weights_sha256": there.weights_sha256,
    }
