"""What the dock says about times and results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from napari_grata.adaptation.plan import Event, make_plan

if TYPE_CHECKING:
    from napari_grata.adaptation.settings import Settings
    from napari_grata.widgets.session import Session
    from napari_grata.widgets.worker import Outcome


def duration(seconds: float) -> str:
    """Return a time as people say it: ``"8 s"``, ``"1:05 min"``, ``"2 h 10 min"``."""
    total = max(0, round(seconds))
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60}:{total % 60:02d} min"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"


def about(seconds: float) -> str:
    """Return an expected time, rounded as far as it can be trusted."""
    if seconds < 10:
        return "a few seconds"
    step = 5 if seconds < 60 else 30 if seconds < 600 else 60
    return f"about {duration(round(seconds / step) * step)}"


def summary(session: Session) -> tuple[str, str]:
    """Return what came of an adaptation, and in which tone to say it."""
    adapted, flagged = session.count(len(session.adapted)), len(session.flagged())
    if flagged == 0:
        return f"{adapted} adapted, none flagged.", "good"
    return f"{adapted} adapted, {flagged} flagged: have a look (key N).", "warning"


def about_step(session: Session, outcome: Outcome) -> tuple[str, str]:
    """Return which state of a run the masks after come from now, and in which tone to say it."""
    step = session.taken_step
    state = "The result of the run" if step is None else f"The state after step {step}"
    if outcome.kind == "done":
        return f"{state} is in use for {session.count(len(session.adapted))}.", "good"
    return f"{state} is in use for some of the slices only.", "warning"


def reset_steps(plan: Iterable[Event]) -> tuple[int, ...]:
    """Return the steps before which the model went back to the source model."""
    return tuple(event.step for event in plan if event.resets)


def expected_steps(settings: Settings, slices: list[int], case_of: Callable[[int], int]) -> int:
    """Return how many learning steps a run will take."""
    return max((event.step for event in make_plan(settings, slices, case_of)), default=0)
