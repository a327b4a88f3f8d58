"""Where a case stands after its decisions: which masks are the final ones, and why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_grata.review.bases import mask_digest, read_bases
from napari_grata.review.decisions import Decision, Fact

if TYPE_CHECKING:
    from napari_grata.review.caselist import CaseList
    from napari_grata.review.casework import CaseWork
    from napari_grata.scans import Scan

VERDICT_WORDS = {
    "accept": "mask after accepted",
    "keep-source": "mask before kept",
    "edit": "being edited",
    "reject": "rejected",
    "second-reader": "for a second reader",
}
MASK_FACT = "mask"
"""Name of the fact that holds the fingerprint of the mask that was decided on."""
ABOUT = {"keep-source": "before", "edit": "after"}
"""Which mask a verdict is about; every other one is about what was shown: the mask after, with
whatever was drawn on it."""
_RESTS_ON = ("run", "step", "edit_version", "scan_sha256")


class CaseMasks:
    """The masks of one case as they are now.

    Parameters
    ----------
    scan : Scan
    source, adapted : mapping of int to ndarray of uint8, shape (H, W)
    work : CaseWork, optional
        For what the reviewer drew; it counts only over the mask that it was drawn on.
    edited : ndarray of int, shape ``scan.mask_shape``, optional
        In place of that, what is on the screen.

    Attributes
    ----------
    slices : list of int
        Those with a mask after, and those that only a person has drawn on.
    """

    def __init__(
        self,
        scan: Scan,
        source: Mapping[int, np.ndarray],
        adapted: Mapping[int, np.ndarray],
        work: CaseWork | None = None,
        *,
        edited: np.ndarray | None = None,
    ) -> None:
        self.scan = scan
        self._stacks = {"before": _stack(scan, source), "after": _stack(scan, adapted)}
        self.edited = edited
        if work is not None:
            drawn = work.edit(scan)
            base = read_bases(work.folder).get(work.edit_version, "")
            if drawn is not None and base in ("", mask_digest(self._stacks["after"])):
                self.edited = drawn
        self._stacks["shown"] = self._stacks["after"] if self.edited is None else self.edited
        self.slices = sorted({*adapted, *self.drawn()})

    def mask(self, verdict: str, index: int | None) -> np.ndarray:
        """Return the mask that a verdict is about: a slice, or (None) the whole stack."""
        stack = self._stacks[ABOUT.get(verdict, "shown")]
        return stack if index is None else self.scan.get_mask(stack, index)

    def drawn(self) -> dict[int, np.ndarray]:
        """Return the masks of the slices that a person has drawn on."""
        if self.edited is None:
            return {}
        pairs = (
            (index, self.mask("accept", index), self.mask("edit", index))
            for index in range(self.scan.n_slices)
        )
        return {index: now for index, now, after in pairs if not np.array_equal(now, after)}


def _stack(scan: Scan, masks: Mapping[int, np.ndarray]) -> np.ndarray:
    stack = scan.empty_mask()
    for index, mask in masks.items():
        scan.put_mask(stack, index, mask)
    return stack


def is_stale(decision: Decision, masks: CaseMasks | None, facts: Mapping[str, Fact]) -> bool:
    """Whether the mask is another one now than when this was decided.

    Parameters
    ----------
    decision : Decision
    masks : CaseMasks or None
        As they are now; without them, and for decisions without a fingerprint of their mask,
        run, step and version of the drawing are compared.
    facts : mapping
        `CaseList.facts` as they are now.
    """
    then = decision.facts.get(MASK_FACT)
    if masks is not None and isinstance(then, str) and then:
        return mask_digest(masks.mask(decision.verdict, decision.slice_index)) != then
    # The mask before does not change with a new run or a stroke.
    names = ("scan_sha256",) if decision.verdict == "keep-source" else _RESTS_ON
    return any(
        decision.facts.get(name) != facts.get(name) for name in names if name in decision.facts
    )


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
    masks: CaseMasks, decisions: Mapping[int | None, Decision], facts: Mapping[str, Fact]
) -> Standing:
    """Put together the masks that a person decided for, slice by slice.

    A decision on a slice comes before one on the whole case. Nothing undecided, rejected, still
    being edited, left to a second reader, or decided on another mask than the one there is now is
    ever passed off as final: then there are no final masks, and a reason.

    Parameters
    ----------
    masks : CaseMasks
    decisions : mapping
        As from `DecisionLog.current`.
    facts : mapping
        As from `CaseList.facts`.
    """
    whole = decisions.get(None)
    total = len(masks.slices)
    if not total:
        return Standing(None, "It has not been adapted yet.")
    chosen = {index: decisions.get(index, whole) for index in masks.slices}
    made = {index: decision for index, decision in chosen.items() if decision is not None}
    if not made:
        return Standing(None, "Nothing has been decided yet.")
    verdicts = dict(Counter(decision.verdict for decision in made.values()))
    if len(made) < total:
        left = total - len(made)
        have = "has" if left == 1 else "have"
        return Standing(None, f"{left} of {total} slices {have} not been decided on.", verdicts)
    # Each decision once: one on the whole case looks at the whole stack.
    for decision in {decision.number: decision for decision in made.values()}.values():
        if is_stale(decision, masks, facts):
            words = "The mask was changed after the decision: look again and decide."
            return Standing(None, words, verdicts)
    for verdict, words in _NOT_FINAL.items():
        if verdicts.get(verdict):
            return Standing(None, _left_out(verdicts[verdict], total, words), verdicts)
    stack = masks.scan.empty_mask()
    for index, decision in made.items():
        masks.scan.put_mask(stack, index, masks.mask(decision.verdict, index))
    return Standing(stack, "", verdicts, (total, masks.scan.n_slices))


_NOT_FINAL = {
    "reject": "rejected",
    "edit": "left in editing: accept the drawing when it is done",
    "second-reader": "left to a second reader",
}


def _left_out(count: int, total: int, words: str) -> str:
    if count == total:
        return f"It was {words}."
    return f"{count} of {total} slices {'was' if count == 1 else 'were'} {words}."


def standing(cases: CaseList, key: str, scan: Scan) -> Standing:
    """Return what a case of a list came to; reads its run and what was drawn.

    Raises
    ------
    RunFolderError
        If its run cannot be read.
    """
    from napari_grata.adaptation import reopen

    work = cases.work(key)
    folder = work.run_folder
    if folder is None:
        return Standing(None, cases.problem(key) or "It has not been adapted yet.")
    run = reopen(folder, scan)
    try:
        if run.scan is None:
            return Standing(None, " ".join(run.missing))
        masks = CaseMasks(run.scan, run.source_masks, run.adapted_masks, work)
        return final_masks(masks, cases.decisions.current(key), cases.facts(key))
    finally:
        run.close()
