"""What is kept of a list of cases, and how it is decided on: on the disk before it shows.

``list.sqlite`` holds all of it (see `list_file`); paths of scans, which may name patients, are
nowhere else. ``decisions.csv`` beside it holds all decisions as a table, made anew after each, so
that nobody needs this program to read them.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter

from napari_grata.scans.files import FileError, clear_leftovers, csv_text, identifier, write_bytes
from napari_grata.scans.sqlite_file import DamageError, packed, unpacked

from .cases import (
    DIFFICULTIES,
    LONGEST_INITIALS,
    VERDICTS,
    Case,
    CaseSummary,
    DecidedMask,
    Decision,
    DecisionError,
    EditVersion,
    ListError,
    now,
)
from .list_file import DECISIONS_FILE, TABLES, ListFile, Row

_NOTE = "This file may identify patients. Delete it before you share the folder."
_SUMMARY, _DECISION = TypeAdapter(CaseSummary), TypeAdapter(Decision)
_EDIT = TypeAdapter(EditVersion)
_MASK = tuple(one.name for one in fields(DecidedMask))
_SAID = ("time", "case", "slice_index", "verdict", "comment", "difficulty", "reviewer")
_CSV = ("number", "in force", *_SAID, *_MASK, "mask")
_HEADER = csv_text(_CSV, [])


class _Replay:
    """All decisions so far, those in force, and what can be undone and redone."""

    def __init__(self) -> None:
        self.decisions: dict[str, Decision] = {}  # by id
        self.done: list[str] = []
        self.taken_back: list[str] = []
        self._in_force: dict[str, dict[int | None, list[str]]] = {}

    def current(self, case: str) -> dict[int | None, Decision]:
        """Return the decisions in force on a case, by slice."""
        found = self._in_force.get(case, {})
        return {index: self.decisions[stack[-1]] for index, stack in found.items() if stack}

    def state(self, key: str) -> str:
        """Return in a word or two whether a decision is in force."""
        one = self.decisions[key]
        if one.undone:
            return "taken back"
        return "yes" if self._in_force[one.case][one.slice_index][-1] == key else "replaced"

    def apply(self, number: int, row: Mapping[str, Any]) -> None:
        """Let a row take effect; a ValueError where it cannot be understood changes nothing."""
        if row["action"] in ("undo", "redo"):
            self._turn(row["of"], undo=row["action"] == "undo")
            return
        if row["action"] != "decide" or row["id"] in self.decisions:
            raise ValueError(row["action"])
        decision = _DECISION.validate_python({**row, "number": number, "mask": row})
        stacks = self._in_force.setdefault(decision.case, {})
        stacks.setdefault(decision.slice_index, []).append(row["id"])
        self.decisions[row["id"]] = decision
        self.done.append(row["id"])
        self.taken_back.clear()

    def _turn(self, of: str, *, undo: bool) -> None:
        source, target = (self.done, self.taken_back) if undo else (self.taken_back, self.done)
        if of not in source:
            return  # of a decision that was lost to damage
        decision = self.decisions[of]
        source.remove(of)
        target.append(of)
        stack = self._in_force[decision.case][decision.slice_index]
        if undo:
            stack.remove(of)
        else:
            stack.append(of)
        self.decisions[of] = replace(decision, undone=undo)


class CaseStore:
    """What is kept of a list: its cases, what was made of them, decided and drawn.

    When the disk does not take a decision it is in force in memory all the same, and `unsaved`;
    the next decision, or `retry`, writes what waits, in order. All methods may be called from any
    thread.

    Parameters
    ----------
    folder : Path
        The list's.

    Attributes
    ----------
    identity : str
        What the list was made of, as a fingerprint; "" where that was lost.
    roots : tuple of Path
        The folders or files that it was made of.
    notices : list of str
        What the user should know, a sentence each.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.identity = ""
        self.roots: tuple[Path, ...] = ()
        self._cases: dict[str, Case] = {}
        self._summaries: dict[str, CaseSummary] = {}
        self.edits: dict[str, dict[int, EditVersion]] = {}
        self._replay = _Replay()
        self._pending: list[dict[str, Any]] = []  # decisions that wait to be written
        self._lines: dict[str, tuple[int, str, str]] = {}  # of the table, by id: number, state
        self._problems: dict[str, str] = {}
        self._mutex = threading.RLock()  # for memory; never held while the disk works
        self._file = ListFile(folder, self._take)
        self.notices = self._file.notices

    def _open(self) -> None:
        """Read what there is; a ListError where there is no list that can be read."""
        self._file.open()
        if self.writable:
            clear_leftovers([self.folder])
            known = b""
            with suppress(OSError):
                known = (self.folder / DECISIONS_FILE).read_bytes()
            if known != self._table():
                self._export()

    def _create(self, identity: str, roots: Sequence[Path], cases: Sequence[Case]) -> None:
        """Begin a list in memory; `retry` makes its file."""
        self._file.took("lists", 1, (identity, _texts(roots), _NOTE))
        for number, case in enumerate(cases, start=1):
            self._file.took("cases", number, (case.key, _texts(case.sources), case.title))

    def close(self) -> None:
        """Let another program write."""
        self._file.close()

    # -- what there is -----------------------------------------------------------------------

    @property
    def read_only(self) -> str | None:
        """None, or a sentence that says why this program may not write."""
        return self._file.read_only

    @property
    def writable(self) -> bool:
        """Whether this program may write to the list."""
        return self.read_only is None

    @property
    def save_problem(self) -> str | None:
        """Why the list's place, the choices or the table could not be saved last time."""
        return " ".join(self._problems.values()) or None

    @property
    def history(self) -> tuple[Decision, ...]:
        """All decisions in the order they were made; those taken back are marked `undone`."""
        with self._mutex:
            return tuple(self._replay.decisions.values())

    @property
    def unsaved(self) -> tuple[Decision, ...]:
        """Decisions (and those undone or redone) that could not be written yet, in order."""
        with self._mutex:
            return tuple(self._replay.decisions[row["of"] or row["id"]] for row in self._pending)

    def decisions(self, case: Case | str) -> dict[int | None, Decision]:
        """Return the decisions in force on a case: by slice, None for the case as a whole."""
        with self._mutex:
            return self._replay.current(case if isinstance(case, str) else case.key)

    # -- deciding ------------------------------------------------------------------------------

    def decide(
        self,
        case: Case | str,
        verdict: str,
        *,
        slice_index: int | None = None,
        comment: str = "",
        difficulty: str = "",
        reviewer: str = "",
        mask: DecidedMask | None = None,
    ) -> Decision:
        """Put a decision in force and on the disk.

        Returns
        -------
        Decision
            On the disk when this returns.

        Raises
        ------
        DecisionError
            If the words are not allowed or another program writes here (``kept`` is False then:
            nothing has happened), or if the disk did not take it (``kept`` is True: the decision
            is in force and in `unsaved`).
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
        key = case if isinstance(case, str) else case.key
        if key not in self._cases:
            raise DecisionError(f"Nothing was decided: there is no case {key[:20]} in this list.")
        return self._act(
            {
                **asdict(mask or DecidedMask()),
                "action": "decide",
                "case": key,
                "slice_index": slice_index,
                "verdict": verdict,
                "comment": comment.encode("utf-8", "replace").decode("utf-8"),
                "difficulty": difficulty,
                "reviewer": reviewer,
            }
        )

    def undo(self) -> Decision | None:
        """Take the latest decision back; return it, or None where there is none.

        A DecisionError says the same as that of `decide`.
        """
        return self._turn("undo")

    def redo(self) -> Decision | None:
        """Put what was undone last in force again; return it, or None where there is none."""
        return self._turn("redo")

    def _turn(self, action: Literal["undo", "redo"]) -> Decision | None:
        with self._file.writer:
            self._may_decide()
            stack = self._replay.done if action == "undo" else self._replay.taken_back
            return self._act({"action": action, "of": stack[-1]}) if stack else None

    def retry(self) -> int:
        """Write what could not be written before; return how many rows were.

        Raises
        ------
        ListError
            If it still cannot be, a `DecisionError` where decisions wait; everything is kept.
        """
        with self._file.writer:
            waiting = len(self._pending)
            if waiting:
                self._flush()
            elif not self._file.placed:
                self._file.write()
            self._problems.pop("place", None)
            return waiting

    def _may_decide(self) -> None:
        if not self.writable:
            if not self._file.acquire():
                raise DecisionError(f"Nothing was decided. {self.read_only}")
            with suppress(ListError):
                self._file.look()  # what the other program did comes first

    def _act(self, given: dict[str, Any]) -> Decision:
        with self._file.writer:
            self._may_decide()
            row = {**dict.fromkeys(TABLES["decisions"]), "time": now(), **given}
            row["id"] = secrets.token_hex(8)
            with self._mutex:
                number = self._file.last("decisions") + len(self._pending) + 1
                try:
                    self._replay.apply(number, row)
                except ValueError as error:
                    raise DecisionError(
                        "Nothing was decided: there is no such slice or mask."
                    ) from error
                self._pending.append(row)
            self._flush()
            return self._replay.decisions[row["of"] or row["id"]]

    def _flush(self) -> None:
        """Write the decisions that wait, all of them or none."""
        rows: list[Row] = [
            ("decisions", tuple(row[name] for name in TABLES["decisions"])) for row in self._pending
        ]
        try:
            self._file.write(rows)
        except ListError as error:
            count = len(self._pending)
            kept = "Your decision is" if count == 1 else f"Your {count} decisions are"
            raise DecisionError(
                f"{kept} not on the disk yet. {error} Nothing is lost while this window is open.",
                kept=True,
            ) from error
        self._problems.pop("place", None)
        self._export()

    def _export(self) -> None:
        """Write the table of decisions; one that cannot be written does not hold up a decision."""
        try:
            if self._replay.decisions:
                write_bytes(self.folder / DECISIONS_FILE, self._table())
            self._problems.pop("table", None)
        except FileError as error:
            self._problems["table"] = f"The decisions are kept, but not as a table: {error}"

    def _table(self) -> bytes:
        """Return all decisions as a table; lines that are as they were are not made again."""
        with self._mutex:
            for key, one in self._replay.decisions.items():
                state = self._replay.state(key)
                if self._lines.get(key, ())[:2] != (one.number, state):
                    mask = (getattr(one.mask, name) for name in _MASK)
                    cells = [one.number, state, *(getattr(one, name) for name in _SAID), *mask]
                    line = csv_text(_CSV, [[*cells, one.mask.words]])[len(_HEADER) :]
                    self._lines[key] = one.number, state, line
            lines = [(number, line) for number, _, line in self._lines.values()]
            for number, values in self._file.rows["decisions"].items():
                if values[0] is None:
                    lines.append((number, f"{number},lost to damage{',' * (len(_CSV) - 2)}\n"))
        return "".join([_HEADER, *(line for _, line in sorted(lines))]).encode("utf-8-sig")

    # -- the rest ------------------------------------------------------------------------------

    def _write(self, rows: Sequence[Row] = (), **more: Any) -> None:
        """Write as `ListFile.write` does, where this program may; may raise ListError."""
        if not self.writable:
            raise ListError(str(self.read_only))
        self._file.write(rows, **more)

    def keep(self, name: str, value: Any) -> None:
        """Keep a value under a name, in place of an earlier one; may raise ListError."""
        self._write(choices={name: value})

    def _add_cases(
        self, cases: Sequence[Case], *, roots: Sequence[Path] = (), identity: str = ""
    ) -> None:
        """Add cases, or where cases that are known lie now."""
        rows: list[Row] = [
            ("cases", (case.key, _texts(case.sources), case.title)) for case in cases
        ]
        self._write(rows + ([("lists", (identity, _texts(roots), _NOTE))] if roots else []))

    def add_summary(self, key: str, summary: CaseSummary) -> None:
        self._write([_summary_row(key, summary)])

    def add_edit(
        self, key: str, stack: np.ndarray, base: str, scan: str, summary: CaseSummary | None
    ) -> int:
        """Keep a drawing, and what is known of the case with it; return its version."""
        data = packed(stack)
        with self._file.writer:
            number = max(self.edits.get(key, ()), default=0) + 1
            row: Row = ("edits", (key, number, now(), base, scan, sha256(data).hexdigest()))
            rows = [row, *([_summary_row(key, summary)] if summary else [])]
            self._write(rows, drawing=data)
            return number

    def drawing(self, edit: EditVersion) -> np.ndarray | None:
        """Read a drawing; None where it is damaged, a ListError where nothing can be read."""
        try:
            data = self._file.drawing(edit.row)
            if data is None or sha256(data).hexdigest() != edit.sha256:
                return None
            found: np.ndarray = unpacked(data)
            return found
        except sqlite3.OperationalError as error:
            raise ListError(f"{self.folder.name} cannot be read ({error}).") from error
        except (sqlite3.Error, DamageError):
            return None

    def _take(self, table: str, number: int, row: dict[str, Any]) -> None:
        """Let a row that is in the file take effect."""
        with self._mutex:
            if table == "lists":
                self.roots = _paths(row["roots"])
                self.identity = str(row["identity"])
            elif table == "cases":
                key = identifier(row["key"], "case")
                title = str(row["title"])
                self._cases[key] = Case(key, int(key[5:]), _paths(row["sources"]), title)
            elif table == "runs":
                key = identifier(row["case"], "case")
                self._summaries[key] = _SUMMARY.validate_json(row["summary"])
            elif table == "edits":
                key = identifier(row["case"], "case")
                known = {**row, "number": row["number_of_case"], "row": number}
                edit = _EDIT.validate_python(known)
                self.edits.setdefault(key, {})[edit.number] = edit
            elif self._pending and self._pending[0]["id"] == row["id"]:
                del self._pending[0]  # this program's own, on the disk now
            elif self._pending:
                self._put_before(number, row)
            else:
                self._replay.apply(number, row)

    def _put_before(self, number: int, row: dict[str, Any]) -> None:
        """Another program has decided while decisions of this one waited: theirs come first."""
        waiting = {one["case"] for one in self._pending}
        if row["case"] in waiting:
            self.notices.append(
                f"Another program has decided on {row['case']} while your decision on it waited "
                "to be written. Yours is in force now: look at it again."
            )
        self._replay = _Replay()
        for known, values in sorted(self._file.rows["decisions"].items()):
            if values[0] is not None:
                self._replay.apply(known, dict(zip(TABLES["decisions"], values, strict=True)))
        for place, one in enumerate(self._pending, start=number + 1):
            self._replay.apply(place, one)


def _summary_row(key: str, summary: CaseSummary) -> Row:
    values = asdict(summary)
    del values["stale"]
    return "runs", (key, now(), json.dumps(values))


def _texts(paths: Sequence[Path]) -> str:
    return json.dumps([str(path) for path in paths])


def _paths(text: Any) -> tuple[Path, ...]:
    values = json.loads(text)
    if not isinstance(values, list) or not all(
        isinstance(v, str) and "\0" not in v for v in values
    ):
        raise ValueError("no paths")
    return tuple(Path(value) for value in values)
