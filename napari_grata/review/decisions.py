"""What a reviewer decided: one line a decision, on the disk before the next key is pressed."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from . import appending
from .appending import DecisionError
from .locks import LockedError, WriterLock
from .replay import VERDICTS, Decision, Fact, Replay

__all__ = ["DIFFICULTIES", "VERDICTS", "Decision", "DecisionError", "DecisionLog", "Fact"]

DIFFICULTIES = ("", "easy", "moderate", "hard")
LONGEST_INITIALS = 5


class DecisionLog:
    """The decisions of one list, appended to a file of JSON lines.

    Undo and redo are lines too: nothing is ever taken out of the file. A line that a crash cut
    short is set aside in a file of its own and reported in `notices`. When a line cannot be
    written, the decision is in force in memory all the same and kept in `unsaved`; the next
    decision, or `retry`, writes what waits, in order. All methods may be called from any thread.

    Parameters
    ----------
    path : Path
        ``decisions.jsonl``; its folder is there. Beside it lies a lock file: one program at a
        time writes.
    take_over : bool
        Take the lock even where another computer seems to hold it.

    Attributes
    ----------
    notices : list of str
        What was peculiar about the file, a sentence each, for the person to read.
    """

    def __init__(self, path: Path, *, take_over: bool = False) -> None:
        self.path = Path(path)
        self.notices: list[str] = []
        self._mutex = threading.RLock()
        self._take_over = take_over
        self._lock = WriterLock(self.path.with_suffix(".lock"))
        self._lines: list[dict[str, Any]] = []  # on the disk, as far as known
        self._pending: list[dict[str, Any]] = []
        self._end = 0  # bytes of the file that hold `_lines`
        self._state = Replay()
        self._acquire()
        with self._mutex:
            self._catch_up()

    # -- what there is ---------------------------------------------------------------------

    @property
    def records(self) -> tuple[Decision, ...]:
        """All decisions in the order they were made; those taken back are marked `undone`."""
        with self._mutex:
            return tuple(self._state.decisions.values())

    @property
    def unsaved(self) -> tuple[Decision, ...]:
        """Decisions (and those undone or redone) that could not be written yet, in order."""
        with self._mutex:
            numbers = [line.get("of", line["number"]) for line in self._pending]
            return tuple(self._state.decisions[number] for number in numbers)

    @property
    def read_only(self) -> str | None:
        """None, or a sentence that says why this program may not write."""
        return self._refusal

    @property
    def can_undo(self) -> bool:
        """Whether there is a decision to take back."""
        return bool(self._state.done)

    @property
    def can_redo(self) -> bool:
        """Whether a decision that was taken back can be put in force again."""
        return bool(self._state.taken_back)

    def current(self, case: str) -> dict[int | None, Decision]:
        """Return the decisions in force on a case: by slice, None for the case as a whole."""
        with self._mutex:
            return self._state.current(case)

    # -- what is done ----------------------------------------------------------------------

    def decide(
        self,
        case: str,
        verdict: str,
        *,
        slice_index: int | None = None,
        comment: str = "",
        difficulty: str = "",
        reviewer: str = "",
        facts: Mapping[str, Fact] | None = None,
    ) -> Decision:
        """Put a decision in force and append it to the file.

        Returns
        -------
        Decision
            On the disk when this returns.

        Raises
        ------
        DecisionError
            If the words are not allowed or another program writes here (``kept`` is False then:
            nothing has happened), or if the disk did not take the line (``kept`` is True: the
            decision is in force and in `unsaved`).
        """
        if verdict not in VERDICTS:
            raise DecisionError(f"{verdict!r} is no decision; choose one of {', '.join(VERDICTS)}.")
        if difficulty not in DIFFICULTIES:
            raise DecisionError(f"The difficulty {difficulty!r} is not easy, moderate or hard.")
        if reviewer and not (reviewer.isalpha() and len(reviewer) <= LONGEST_INITIALS):
            raise DecisionError(
                f"The reviewer is {reviewer!r}; give initials of at most {LONGEST_INITIALS} "
                "letters, no whole name."
            )
        line = {
            "action": "decide",
            "time": _now(),
            "case": case,
            "slice_index": None if slice_index is None else int(slice_index),
            "verdict": verdict,
            "comment": comment,
            "difficulty": difficulty,
            "reviewer": reviewer,
            "facts": dict(facts or {}),
        }
        number = self._add(line)
        return self._state.decisions[number]

    def undo(self) -> Decision | None:
        """Take the latest decision back; return it, or None where there is none.

        Raises
        ------
        DecisionError
            As for `decide`.
        """
        with self._mutex:
            self._may_write()
            if not self._state.done:
                return None
            of = self._state.done[-1]
            self._add({"action": "undo", "time": _now(), "of": of})
            return self._state.decisions[of]

    def redo(self) -> Decision | None:
        """Put what was undone last in force again; return it, or None where there is none."""
        with self._mutex:
            self._may_write()
            if not self._state.taken_back:
                return None
            of = self._state.taken_back[-1]
            self._add({"action": "redo", "time": _now(), "of": of})
            return self._state.decisions[of]

    def retry(self) -> int:
        """Write what could not be written before; return how many lines were.

        Raises
        ------
        DecisionError
            If it still cannot be; everything is kept.
        """
        with self._mutex:
            waiting = len(self._pending)
            if waiting:
                self._may_write()
                self._write_pending()
            return waiting

    def save_copy(self, path: Path) -> None:
        """Write all decisions, those of `unsaved` included, into another file.

        For when the list's own place is gone for good.

        Raises
        ------
        OSError
        """
        with self._mutex:
            appending.write_all(Path(path), [*self._lines, *self._pending])

    def refresh(self) -> None:
        """Read what another program has written since; a read-only log may become writable."""
        with self._mutex:
            self._acquire()
            self._catch_up()

    def close(self) -> None:
        """Let another program write."""
        self._lock.release()

    # -- inside ----------------------------------------------------------------------------

    def _acquire(self) -> None:
        self._refusal: str | None = None
        try:
            self._lock.acquire(take_over=self._take_over)
        except LockedError as error:
            self._refusal = str(error)
        except OSError:
            pass  # A folder that takes no lock takes no line either: the first one will say so.

    def _may_write(self) -> None:
        if not self._lock.held:
            self._acquire()
        if self._refusal is not None:
            raise DecisionError(f"Nothing was decided. {self._refusal}")

    def _add(self, line: dict[str, Any]) -> int:
        with self._mutex:
            self._may_write()
            # What another window of this program wrote comes first.
            if not self._pending and self.path.exists():
                self._catch_up()
            number = self._state.next_number
            line = {"number": number, **line}
            self._pending.append(line)
            self._state.apply(line)
            self._write_pending()
            return number

    def _write_pending(self) -> None:
        try:
            self._end = appending.append(self.path, self._lines, self._pending, self._end)
        except OSError as error:
            raise appending.not_written(self.path, error, len(self._pending)) from error
        self._lines += self._pending
        self._pending = []

    def _catch_up(self) -> None:
        """Read the lines that are new in the file; set aside what a crash cut short."""
        if self._pending:
            return
        found = appending.read(self.path, self._end, repair=self._lock.held)
        self.notices += found.notices
        self._end = found.end
        for line in found.lines:
            try:
                self._state.apply(line)
            except (KeyError, TypeError, ValueError):
                self.notices.append(
                    "A line of the decisions cannot be understood and is left out; it stays in "
                    f"{self.path.name}."
                )
                continue
            self._lines.append(line)


def digest(values: Mapping[str, Any]) -> str:
    """Return a short fingerprint of plain values, such as settings: 16 hexadecimal digits."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
