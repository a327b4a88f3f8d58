"""The plan of a run: every event of the stream, known before the first one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from .settings import Settings


@dataclass(frozen=True)
class Event:
    """One event to come: an adaptation step on a slice, or the prediction of a slice's mask.

    Attributes
    ----------
    phase : {"adapt", "predict"}
    slice_index, case, pass_index, episode : int
    step : int
        Optimiser steps taken once this event is over; 0 throughout where nothing is learnt.
    first_step : int
        Number of the first step of this episode.
    resets : bool
        Whether the method goes back before this event to what the run began with: the source
        model, or the state that it was given to start from.
    final : bool
        Whether the mask of this event is the slice's result.
    """

    phase: Literal["adapt", "predict"]
    slice_index: int
    case: int
    pass_index: int
    episode: int
    step: int
    first_step: int
    resets: bool
    final: bool


def episodes(
    settings: Settings, slices: Sequence[int], case_of: Callable[[int], int]
) -> list[list[int]]:
    """Split the slices into the stretches over which θ lives on.

    ``continual``: one stretch. ``episodic``: one a case, cases in the order of their first slice.
    ``every-n``: stretches of ``reset_every`` slices. Passes run inside a stretch, for otherwise a
    reset would throw away what the pass before had learnt.
    """
    if settings.mode == "episodic":
        by_case: dict[int, list[int]] = {}
        for index in slices:
            by_case.setdefault(case_of(index), []).append(index)
        return list(by_case.values())
    if settings.mode == "every-n":
        size = settings.reset_every
        return [list(slices[start : start + size]) for start in range(0, len(slices), size)]
    return [list(slices)]


def make_plan(
    settings: Settings,
    slices: Sequence[int],
    case_of: Callable[[int], int],
    corrected: Collection[int] = (),
) -> tuple[Event, ...]:
    """List every event of a run, in order.

    Where masks are predicted with the final or averaged θ, each episode's predictions follow its
    own adaptation, with its own θ: in episodic mode a case is finished before the next one
    starts. Methods that do not learn see each slice once and predict it as they go.

    Parameters
    ----------
    corrected : collection of int
        Slices whose corrections teach: they take turns for ``correction_steps`` rounds, the
        others as the settings say, and all slices of the episode are predicted afterwards, the
        corrected ones first.
    """
    afterwards = settings.learns and settings.predict != "stream"
    events: list[Event] = []
    step = 0
    for episode, members in enumerate(episodes(settings, slices, case_of)):
        first_step = step + 1
        taught = [index for index in members if index in corrected]
        visits = list(_visits(settings, members, taught))
        last = {index: number for number, (index, _) in enumerate(visits)}
        for number, (index, pass_index) in enumerate(visits):
            step += settings.learns
            events.append(
                Event(
                    phase="adapt",
                    slice_index=index,
                    case=case_of(index),
                    pass_index=pass_index,
                    episode=episode,
                    step=step,
                    first_step=first_step,
                    resets=settings.learns and episode > 0 and step == first_step,
                    final=number == last[index] and not afterwards,
                )
            )
        if afterwards:
            untaught = [index for index in members if index not in corrected]
            events += [
                Event(
                    phase="predict",
                    slice_index=index,
                    case=case_of(index),
                    pass_index=visits[-1][1],
                    episode=episode,
                    step=step,
                    first_step=first_step,
                    resets=False,
                    final=True,
                )
                for index in [*taught, *untaught]
            ]
    return tuple(events)


def _visits(
    settings: Settings, members: Sequence[int], taught: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Yield (slice, pass) for each step of an episode."""
    passes = settings.passes if settings.learns else 1
    repeats = settings.steps_per_slice if settings.learns else 1
    plain = [
        (index, pass_index)
        for pass_index in range(passes)
        for index in members
        if index not in taught
        for _ in range(repeats)
    ]
    if not taught:
        yield from plain
        return
    if not settings.uncorrected_learn:
        plain = []
    rounds = settings.correction_steps
    for number in range(rounds):
        for index in taught:
            yield index, number
        yield from plain[number * len(plain) // rounds : (number + 1) * len(plain) // rounds]
