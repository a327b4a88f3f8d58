"""States of a run that were in use before, so that taking another one can be undone."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LEVELS = 50
LIMIT_BYTES = 96 * 2**20


@dataclass
class Taken:
    """The masks after as they were in one state, packed.

    Attributes
    ----------
    step : int or None
        After which step of the run; None: its result.
    """

    step: int | None
    _masks: dict[int, tuple[bytes, tuple[int, int]]] = field(default_factory=dict)

    def fill(self, scan: Any, stack: np.ndarray, slices: Sequence[int]) -> None:
        """Pack the masks of these slices; may run in a worker's thread."""
        for index in slices:
            mask = np.ascontiguousarray(scan.get_mask(stack, index), dtype=np.uint8)
            rows, columns = mask.shape
            self._masks[index] = zlib.compress(mask.tobytes(), 1), (rows, columns)

    def masks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (slice, label map)."""
        for index, (packed, shape) in self._masks.items():
            yield index, np.frombuffer(zlib.decompress(packed), dtype=np.uint8).reshape(shape)

    def __len__(self) -> int:
        return len(self._masks)

    @property
    def nbytes(self) -> int:
        """Bytes that the packed masks take."""
        return sum(len(packed) for packed, _ in self._masks.values())


class TakenStates:
    """What can be undone and done again, the latest last."""

    def __init__(self) -> None:
        self._past: list[Taken] = []
        self._future: list[Taken] = []

    @property
    def before(self) -> Taken | None:
        """The state that Undo goes back to."""
        return self._past[-1] if self._past else None

    @property
    def after(self) -> Taken | None:
        """The state that Redo goes on to."""
        return self._future[-1] if self._future else None

    def leave(self, step: int | None) -> Taken:
        """Begin to keep the state that is left for a new one; it is still to be filled."""
        state = Taken(step)
        self._past.append(state)
        self._future.clear()
        self._trim()
        return state

    def undo(self, step: int | None) -> tuple[Taken, Taken]:
        """Return the state to go back to, and the one left, which is still to be filled."""
        wanted, left = self._past.pop(), Taken(step)
        self._future.append(left)
        return wanted, left

    def redo(self, step: int | None) -> tuple[Taken, Taken]:
        """Return the state to go on to, and the one left, which is still to be filled."""
        wanted, left = self._future.pop(), Taken(step)
        self._past.append(left)
        return wanted, left

    def clear(self) -> None:
        """Forget all states: there is a new run."""
        self._past.clear()
        self._future.clear()

    def _trim(self) -> None:
        """Keep within bounds; the oldest state goes first."""
        while len(self._past) > LEVELS or (
            len(self._past) > 1 and sum(state.nbytes for state in self._past) > LIMIT_BYTES
        ):
            del self._past[0]
