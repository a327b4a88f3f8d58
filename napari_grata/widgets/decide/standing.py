"""What a decision rests on, and whether that has changed since."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_grata.review.cases import DecidedMask, Decision, digest
from napari_grata.review.final_masks import ABOUT, mask_digest

if TYPE_CHECKING:
    from napari_grata.widgets.session import Session


class Standing:
    """Fingerprints of the masks in view, each computed once until it changes."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str, int | None], str] = {}

    def forget(self, index: int | None = None) -> None:
        """Masks have changed: of one slice (and so of the case), or all."""
        if index is None:
            self._known.clear()
        else:
            kept = {k: v for k, v in self._known.items() if k[2] not in (index, None)}
            self._known = kept

    def mask(self, session: Session, verdict: str, index: int | None) -> str:
        """Return the fingerprint of the mask that a verdict is about, "" if there is none.

        Accepted is what is shown; kept is the mask before; an edit begins with the mask after.
        """
        which = ABOUT.get(verdict, "shown")
        there = session.segmented if which == "source" else session.adapted
        if which == "shown" and not (index in there if index is not None else there):
            which, there = "source", session.segmented
        if not (index in there if index is not None else there):
            return ""
        key = (id(session), which, index)
        if key not in self._known:
            stack = self._stack(session, which)
            mask = stack if index is None else session.scan.get_mask(stack, index)
            self._known[key] = mask_digest(mask)
        return self._known[key]

    def stale(self, session: Session | None, decision: Decision) -> bool:
        """Whether the mask that was decided on is another one now."""
        then = decision.mask.digest
        if session is None or session.busy or not then:
            return False
        now = self.mask(session, decision.verdict, decision.slice_index)
        return bool(now) and now != then

    @staticmethod
    def _stack(session: Session, which: str) -> np.ndarray:
        if which == "source":
            return session.before.stack
        layer = session.after.layer
        if which == "shown" and layer is not None and session.after.shown:
            data: np.ndarray = layer.data
            if data.shape == session.after.stack.shape:
                return data
        return session.after.stack


def mask_of(session: Session, known: DecidedMask) -> DecidedMask:
    """Return model, settings and step of what is in view; names no file."""
    card = session.card
    facts = known.but(edit=0, model=card.name, weights_sha256=card.weights_sha256 or "")
    if session.settings is not None and session.adapted:
        facts = facts.but(settings=digest(session.settings.to_dict()))
    history = getattr(session.run, "history", None)
    if session.taken_step is not None:
        facts = facts.but(step=session.taken_step)
    elif history is not None:
        facts = facts.but(step=int(history.last_step))
    return facts
