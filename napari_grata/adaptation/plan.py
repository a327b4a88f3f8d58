"""What a run will do: which slices, which part of them, and every event in order, known before.

Loads no torch.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .methods.register import METHODS
from .settings import Settings

if TYPE_CHECKING:
    from napari_grata.scans import Scan

Region = tuple[int, int, int, int]
"""(row0, col0, row1, col1) in displayed pixels of a slice, half-open."""
NIGHT = 10
"""Rounds of batches between two days, of methods that have nights."""
_RANGE = re.compile(r"^(\d+)(?:\s*(?:-|–|\.\.)\s*(\d+))?$")


class RunError(ValueError):
    """A run that cannot be started or continued; the message says why and what to do."""


class SlicesError(ValueError):
    """A choice of slices that cannot be read; the message says what is wrong and what works."""


def parse_slices(text: str, scan: Scan, *, current: int | None = None) -> list[int]:
    """Read a choice of slices as a person writes it.

    Parameters
    ----------
    text : str
        ``"all"``, ``"current"``, or numbers and ranges, 1-based as displayed and both ends
        included: ``"10-20, 25"``. ``"20-10"`` runs downwards. In a time series plain numbers mean
        these slices at every time point; ``"3:10-20"`` means time point 3 alone, ``"3:all"`` all
        of it.
    scan : Scan
        Gives ``leading_shape``, ``n_slices`` and ``slice_index``.
    current : int, optional
        Flat number of the slice in view, for ``"current"``.

    Returns
    -------
    list of int
        Flat slice numbers from 0, each once, in the order written.

    Raises
    ------
    SlicesError
        If the text cannot be read or names a slice that the scan does not have.
    """
    chosen: dict[int, None] = {}
    parts = [part.strip() for part in re.split(r"[,;]", text) if part.strip()]
    if not parts:
        raise SlicesError("No slices are named. Write all, current, or numbers such as 10-20, 25.")
    for part in parts:
        word = part.lower()
        if word == "all":
            chosen.update(dict.fromkeys(range(scan.n_slices)))
        elif word == "current":
            if current is None:
                raise SlicesError(
                    "“current” needs a slice in view. Write all, or numbers such as 10-20."
                )
            chosen[int(current)] = None
        else:
            chosen.update(dict.fromkeys(_numbered(part, scan)))
    return list(chosen)


def _numbered(part: str, scan: Scan) -> list[int]:
    """Flat numbers of one ``10-20``, ``7`` or ``3:10-20``."""
    leading = tuple(scan.leading_shape) or (1,)
    *front, last = part.split(":")
    if front and len(leading) == 1:
        raise SlicesError(f"“{part}” names a time point, but this scan is no time series.")
    if len(front) >= len(leading):
        raise SlicesError(f"“{part}” has too many colons; write time:slice, such as 3:10-20.")
    axes = [list(range(size)) for size in leading[: -1 - len(front)]]
    for text, size in zip(front, leading[len(axes) : -1], strict=True):
        axes.append(_axis(text, size, "time point", part))
    axes.append(_axis(last, leading[-1], "slice", part))
    if not scan.leading_shape:
        return [0]
    return [int(scan.slice_index(position)) for position in itertools.product(*axes)]


def _axis(text: str, size: int, what: str, part: str) -> list[int]:
    text = text.strip()
    if text.lower() in ("all", "*"):
        return list(range(size))
    match = _RANGE.match(text)
    if match is None:
        raise SlicesError(
            f"“{part}” is no slice or range. Write all, current, or numbers such as 10-20, 25."
        )
    first = int(match[1])
    last = int(match[2]) if match[2] else first
    for number in (first, last):
        if not 1 <= number <= size:
            count = f"only {what} 1" if size == 1 else f"{what}s 1 to {size}"
            raise SlicesError(f"There is no {what} {number} (in “{part}”); the scan has {count}.")
    step = 1 if last >= first else -1
    return list(range(first - 1, last - 1 + step, step))


def describe_slices(slices: Sequence[int], scan: Scan) -> str:
    """Write flat slice numbers as `parse_slices` reads them: [9, 10, 11, 24] → ``10-12, 25``."""
    if list(slices) == list(range(scan.n_slices)):
        return "all"
    leading = tuple(scan.leading_shape) or (1,)
    positions = [tuple(scan.slice_position(i)) or (0,) for i in slices]
    runs: list[tuple[tuple[int, ...], int, int]] = []
    for position in positions:
        front, number = position[:-1], position[-1] + 1
        if runs and runs[-1][0] == front:
            _, first, last = runs[-1]
            step = number - last
            if abs(step) == 1 and (first == last or (last > first) == (step > 0)):
                runs[-1] = (front, first, number)
                continue
        runs.append((front, number, number))
    words = []
    for front, first, last in runs:
        prefix = "".join(f"{index + 1}:" for index in front) if len(leading) > 1 else ""
        words.append(prefix + (str(first) if first == last else f"{first}-{last}"))
    return ", ".join(words)


def checked_slices(slices: Sequence[int] | str | None, scan: Scan) -> list[int]:
    """Return flat slice numbers, each once, in the order given; all for None."""
    if slices is None:
        return list(range(scan.n_slices))
    if isinstance(slices, str):
        return parse_slices(slices, scan)
    chosen = list(dict.fromkeys(int(index) for index in slices))
    wrong = [index for index in chosen if not 0 <= index < scan.n_slices]
    if wrong:
        raise RunError(
            f"The scan has no slice {wrong[0]}; flat slice numbers run from 0 to "
            f"{scan.n_slices - 1}."
        )
    if not chosen:
        raise RunError("No slices were chosen; choose at least one.")
    return chosen


def checked_region(region: Region | None, slices: list[int], scan: Scan) -> Region | None:
    """Return the region without what lies above or left of the slices; it must meet each."""
    if region is None:
        return None
    row0, col0, row1, col1 = (int(value) for value in region)
    row0, col0 = max(0, row0), max(0, col0)
    for index in slices:
        rows, columns = scan.slice_shape(index)
        if min(row1, rows) <= row0 or min(col1, columns) <= col0:
            raise RunError(
                f"The region (rows {row0} to {row1}, columns {col0} to {col1}) holds no pixel of "
                f"slice {index + 1}, which is {rows} × {columns}. Draw it over the scan."
            )
    return row0, col0, row1, col1


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
    batch : tuple of int
        The slices that teach this step, ``slice_index`` the first; empty where it is alone.
    """

    phase: Literal["adapt", "predict"]
    slice_index: int
    case: int
    pass_index: int
    episode: int
    step: int
    first_step: int
    resets: bool = False
    final: bool = True
    batch: tuple[int, ...] = ()


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
    *,
    volumes: bool = False,
) -> tuple[Event, ...]:
    """List every event of a run, in order.

    Where masks are predicted with the final or averaged θ, each episode's predictions follow its
    own adaptation, with its own θ: in episodic mode a case is finished before the next one
    starts. Methods that do not learn see each slice once and predict it as they go.

    Parameters
    ----------
    corrected : collection of int
        Slices whose corrections teach: they take turns for ``correction_steps`` rounds (where all
        weights learn, each time beside one that is held to what was said of it), the others as the
        settings say, and all slices of the episode are predicted afterwards, the
        corrected ones first.
    volumes : bool
        Whether the model reads whole volumes: no slice is finished before the model has learnt,
        and each pass takes its steps on as many slices as ``pass_slices`` says, evenly spaced.
    """
    afterwards = settings.predicts_afterwards or (volumes and settings.learns)
    events: list[Event] = []
    step = 0
    for episode, members in enumerate(episodes(settings, slices, case_of)):
        first_step = step + 1
        taught = [index for index in members if index in corrected]
        visits = list(_visits(settings, members, taught, volumes))
        last = {visit[0]: number for number, visit in enumerate(visits)}
        for number, (index, pass_index, batch) in enumerate(visits):
            step += settings.learns
            place = (index, case_of(index), pass_index, episode, step, first_step)
            resets = settings.learns and episode > 0 and step == first_step
            final = number == last[index] and not afterwards
            events.append(Event("adapt", *place, resets=resets, final=final, batch=batch))
        if afterwards:
            untaught = [index for index in members if index not in corrected]
            reached = (visits[-1][1], episode, step, first_step)
            events += [
                Event("predict", index, case_of(index), *reached) for index in [*taught, *untaught]
            ]
    return tuple(events)


Visit = tuple[int, int, tuple[int, ...]]
"""(slice, pass, batch) of one step."""


def _visits(
    settings: Settings, members: Sequence[int], taught: Sequence[int], volumes: bool
) -> Iterator[Visit]:
    """Yield the visits of an episode."""
    passes = settings.passes if settings.learns else 1
    repeats = settings.steps_per_slice if settings.uses("steps_per_slice") else 1
    others = [index for index in members if index not in taught]
    plain: list[Visit]
    if settings.learns_from_stack:
        plain = [visit for number in range(passes) for visit in _batches(settings, others, number)]
    elif METHODS[settings.method].learns == "days":
        plain = _days(settings, others)
    else:
        if volumes and settings.learns and len(others) > settings.pass_slices:
            count = settings.pass_slices
            others = [others[(2 * n + 1) * len(others) // (2 * count)] for n in range(count)]
        plain = [
            (index, number, ())
            for number in range(passes)
            for index in others
            for _ in range(repeats)
        ]
    if not taught:
        yield from plain
        return
    if not settings.uncorrected_learn:
        plain = []
    rounds = settings.correction_steps
    beside: Iterator[int] = iter(())
    if settings.learns_from_stack and not volumes and others:
        beside = itertools.cycle(_drawn(settings, others, 0))
    for number in range(rounds):
        for index in taught:
            other = tuple(itertools.islice(beside, 1))
            yield index, number, (index, *other) if other else ()
        yield from plain[number * len(plain) // rounds : (number + 1) * len(plain) // rounds]


def _days(settings: Settings, members: Sequence[int]) -> list[Visit]:
    """Each slice by itself, then some rounds of batches, and so on; the last is a day."""
    visits: list[Visit] = []
    for day in range(settings.passes):
        first = day * (NIGHT + 1)
        for number in range(first - NIGHT if day else first, first):
            visits += _batches(settings, members, number)
        visits += [(index, first, ()) for index in members]
    return visits


def _drawn(settings: Settings, members: Sequence[int], pass_index: int) -> list[int]:
    """Draw the slices of one pass, in random order."""
    count = min(len(members), settings.pass_slices)
    return random.Random(f"{settings.seed} {pass_index}").sample(list(members), count)


def _batches(settings: Settings, members: Sequence[int], pass_index: int) -> Iterator[Visit]:
    """Deal the slices of one pass, or as many as it takes, into batches of about the same size."""
    dealt = _drawn(settings, members, pass_index)
    count = math.ceil(len(dealt) / settings.batch)
    for number in range(count):
        batch = tuple(dealt[number::count])
        yield batch[0], pass_index, batch


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
        was learnt there is nothing to finish with: the plan stays as it is, and so it does where
        every slice has to learn a prompt of its own.
    """
    done = plan[:position]
    if not done or done[-1].step == 0 or not settings.learns or settings.prompts:
        return plan
    last = done[-1]
    have = {event.slice_index for event in done if event.final}
    lacking: dict[int, Event] = {}
    for event in plan:
        same_case = event.episode == last.episode or settings.mode != "episodic"
        if event.slice_index not in have and same_case:
            lacking.setdefault(event.slice_index, event)
    place = (last.pass_index, last.episode, last.step, last.first_step)
    return done + tuple(
        Event("predict", index, event.case, *place) for index, event in lacking.items()
    )
