"""Play the lines of a decision log back: what was decided, what of it is in force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

VERDICTS = ("accept", "keep-source", "edit", "reject", "second-reader")
Fact = str | int | float
_FIELDS = (
    "time",
    "case",
    "slice_index",
    "verdict",
    "comment",
    "difficulty",
    "reviewer",
    "facts",
)


@dataclass(frozen=True)
class Decision:
    """One decision of one person.

    Attributes
    ----------
    number : int
        Number of its line in the log, from 1.
    time : str
        UTC, ISO 8601.
    case : str
        Code of the case, such as ``"case-0001"``.
    slice_index : int or None
        Flat slice number; None for the whole case.
    verdict : str
        One of ``VERDICTS``.
    comment : str
        Free words of the reviewer; never a patient's name.
    difficulty : str
        One of ``DIFFICULTIES``.
    reviewer : str
        Initials, at most five letters.
    facts : mapping of str to str, int or float
        What was decided on: weights, settings, run folder, step in use, version of the edit.
    undone : bool
        Whether it has been taken back.
    """

    number: int
    time: str
    case: str
    slice_index: int | None
    verdict: str
    comment: str = ""
    difficulty: str = ""
    reviewer: str = ""
    facts: Mapping[str, Fact] = field(default_factory=dict)
    undone: bool = False


class Replay:
    """All decisions of a log so far, those in force, and what can be undone and redone.

    Attributes
    ----------
    decisions : dict of int to Decision
        By number, in order; those taken back are marked.
    done, taken_back : list of int
        Numbers of what undo and redo take next, the last first.
    next_number : int
        Number of the line that comes next.
    """

    def __init__(self) -> None:
        self.decisions: dict[int, Decision] = {}
        self.done: list[int] = []
        self.taken_back: list[int] = []
        self.next_number = 1
        self._in_force: dict[str, dict[int | None, list[int]]] = {}

    def current(self, case: str) -> dict[int | None, Decision]:
        """Return the decisions in force on a case, by slice."""
        found = self._in_force.get(case, {})
        return {index: self.decisions[stack[-1]] for index, stack in found.items() if stack}

    def apply(self, line: Mapping[str, Any]) -> None:
        """Let a line take effect; one that has already had it changes nothing.

        Raises
        ------
        KeyError, TypeError, ValueError
            If the line cannot be understood; nothing has changed then.
        """
        number, action = int(line["number"]), line["action"]
        if number < self.next_number:
            return
        if action == "decide":
            self._decide(number, line)
        elif action in ("undo", "redo"):
            self._turn(int(line["of"]), undo=action == "undo")
        else:
            raise ValueError(action)
        self.next_number = number + 1

    def _decide(self, number: int, line: Mapping[str, Any]) -> None:
        decision = Decision(number=number, **{name: line[name] for name in _FIELDS})
        if decision.verdict not in VERDICTS:
            raise ValueError(decision.verdict)
        stacks = self._in_force.setdefault(decision.case, {})
        stacks.setdefault(decision.slice_index, []).append(number)
        self.decisions[number] = decision
        self.done.append(number)
        self.taken_back.clear()

    def _turn(self, of: int, *, undo: bool) -> None:
        decision = self.decisions[of]
        source, target = (self.done, self.taken_back) if undo else (self.taken_back, self.done)
        source.remove(of)
        target.append(of)
        stack = self._in_force[decision.case][decision.slice_index]
        if undo:
            stack.remove(of)
        else:
            stack.append(of)
        self.decisions[of] = replace(decision, undone=undo)
