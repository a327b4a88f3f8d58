"""Ending a run before its plan does: the slices that lack a result get one with what was learnt."""

from __future__ import annotations

from .plan import Event
from .settings import Settings


def cut_short(plan: tuple[Event, ...], position: int, settings: Settings) -> tuple[Event, ...]:
    """Replace the events to come by predictions with the θ that was reached.

    Parameters
    ----------
    plan : tuple of Event
        As `make_plan` made it.
    position : int
        Events done.

    Returns
    -------
    tuple of Event
        The events done, then one prediction for each slice without a result. In episodic mode
        each case learns by itself, so that those that had not begun are left out. Where nothing
        was learnt there is nothing to finish with: the plan stays as it is.
    """
    done = plan[:position]
    if not done or done[-1].step == 0 or not settings.learns:
        return plan
    last = done[-1]
    have = {event.slice_index for event in done if event.final}
    lacking: dict[int, Event] = {}
    for event in plan:
        same_case = event.episode == last.episode or settings.mode != "episodic"
        if event.slice_index not in have and same_case:
            lacking.setdefault(event.slice_index, event)
    return done + tuple(
        Event(
            phase="predict",
            slice_index=index,
            case=event.case,
            pass_index=last.pass_index,
            episode=last.episode,
            step=last.step,
            first_step=last.first_step,
            resets=False,
            final=True,
        )
        for index, event in lacking.items()
    )
