"""The session as it was before corrections taught the model: the way back."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_grata.widgets.taken import TakenStates

if TYPE_CHECKING:
    from napari_grata.widgets.session import Session


def _pack(stack: np.ndarray) -> bytes:
    return zlib.compress(np.ascontiguousarray(stack, dtype=np.uint8).tobytes(), 1)


@dataclass
class Before:
    """A session's run and masks, the painted ones included, before a run that learnt from them.

    Attributes
    ----------
    run : AdaptationRun
        The earlier run; open, so that it can be gone back to.
    later : AdaptationRun or None
        The run that learnt, once it has begun.
    right : frozenset of int
        Slices that had been called right.
    """

    run: Any
    right: frozenset[int]
    later: Any
    _values: dict[str, Any]
    _stack: bytes
    _shown: bytes

    @classmethod
    def of(cls, session: Session, right: set[int]) -> Before:
        """Keep a session as it is now."""
        names = ("settings", "note", "note_tone", "resets", "taken_step", "taken", "reopened")
        values = {name: getattr(session, name) for name in (*names, "expected_steps")}
        values["stream"], values["flags"] = list(session.stream), dict(session.flags)
        values["adapted"] = set(session.adapted)
        stack, shown = session.after.stack, session.after.as_shown()
        return cls(session.run, frozenset(right), None, values, _pack(stack), _pack(shown))

    def begin(self, session: Session) -> None:
        """Make room for the run that learns; what was painted becomes part of the mask."""
        session.after.stack[...] = session.after.as_shown()
        session.taken, session.taken_step = TakenStates(), None
        session.stream = []
        session.resets = ()
        session.reopened = None
        session.hide_difference()

    def put_back(self, session: Session) -> None:
        """Bring the session back; the run that learnt is closed, its folder stays."""
        if session.run is not None and session.run is not self.run:
            session.run.close()
        session.run = self.run
        for name, value in self._values.items():
            setattr(session, name, value)
        session.hide_difference()
        after = session.after
        after.stack[...] = self._unpack(self._stack, after.stack)
        layer = after.ensure()
        if layer.data.shape == after.stack.shape:
            layer.data[...] = self._unpack(self._shown, after.stack)
            layer.refresh(extent=False)

    @staticmethod
    def _unpack(packed: bytes, like: np.ndarray) -> np.ndarray:
        return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(like.shape)
