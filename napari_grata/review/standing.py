"""Where a case stands after its decisions: which masks are the final ones, and why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_grata.review.decisions import Decision, Fact

if TYPE_CHECKING:
    from napari_grata.review.caselist import CaseList
    from napari_grata.scans import Scan

VERDICT_WORDS = {
    "accept": "mask after accepted",
    "keep-source": "mask before kept",
    "edit": "mask as drawn by the reviewer",
    "reject": "rejected",
    "second-reader": "for a second reader",
}
_RESTS_ON = ("run", "step", "edit_version", "scan_sha256")


def is_stale(decision: Decision, facts: Mapping[str, Fact]) -> bool:
    """Whether the mask is another one now than when this was decided.

    Parameters
    ----------
    decision : Decision
    facts : mapping
        `CaseList.facts` as they are now.
    """
    if decision.verdict == "keep-source":
        # The mask before does not change with a new run or a stroke.
        names: tuple[str, ...] = ("weights_sha256", "scan_sha256")
    else:
        names = _RESTS_ON
    return any(decision.facts.get(name) != facts.get(name) for name in names)


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
    """

    stack: np.ndarray | None
    reason: str = ""
    verdicts: Mapping[str, int] | None = None


def final_masks(
    scan: Scan,
    source: Mapping[int, np.ndarray],
    adapted: Mapping[int, np.ndarray],
    edited: np.ndarray | None,
    decisions: Mapping[int | None, Decision],
    facts: Mapping[str, Fact],
) -> Standing:
    """Put together the masks that a person decided for, slice by slice.

    A decision on a slice comes before one on the whole case. Nothing undecided, rejected, left to
    a second reader, or decided on another mask than the one there is now is ever passed off as
    final: then there are no final masks, and a reason.

    Parameters
    ----------
    source, adapted : mapping of int to ndarray of uint8, shape (H, W)
    edited : ndarray of uint8, shape ``scan.mask_shape``, or None
        What the reviewer drew.
    decisions : mapping
        As from `DecisionLog.current`.
    facts : mapping
        As from `CaseList.facts`.
    """
    whole = decisions.get(None)
    slices = sorted(adapted)
    if not slices:
        return Standing(None, "It has not been adapted yet.")
    chosen = {index: decisions.get(index, whole) for index in slices}
    open_slices = [index for index, decision in chosen.items() if decision is None]
    if len(open_slices) == len(slices):
        return Standing(None, "Nothing has been decided yet.")
    if open_slices:
        return Standing(
            None, f"{len(open_slices)} of {len(slices)} slices have not been decided on."
        )
    verdicts: dict[str, int] = {}
    stack = scan.empty_mask()
    for index, decision in chosen.items():
        assert decision is not None
        verdicts[decision.verdict] = verdicts.get(decision.verdict, 0) + 1
        if is_stale(decision, facts):
            return Standing(
                None, "The mask was changed after the decision: look again and decide.", verdicts
            )
        if decision.verdict == "keep-source":
            scan.put_mask(stack, index, source[index])
        elif decision.verdict in ("accept", "edit"):
            drawn = scan.get_mask(edited, index) if edited is not None else adapted[index]
            scan.put_mask(stack, index, drawn)
    if verdicts.get("reject"):
        return Standing(None, _left_out(verdicts["reject"], len(slices), "rejected"), verdicts)
    if verdicts.get("second-reader"):
        words = "left to a second reader"
        return Standing(None, _left_out(verdicts["second-reader"], len(slices), words), verdicts)
    return Standing(stack, "", verdicts)


def _left_out(count: int, total: int, words: str) -> str:
    return f"It was {words}." if count == total else f"{count} of {total} slices were {words}."


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
        return final_masks(
            run.scan,
            run.source_masks,
            run.adapted_masks,
            work.edit(run.scan),
            cases.decisions.current(key),
            cases.facts(key),
        )
    finally:
        run.close()
