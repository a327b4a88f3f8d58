"""Makers of good, odd, damaged and hostile inputs, for the tests and for ``tools/fuzz.py``.

A kind is a module in here with a function ``trial(random, folder)``: it makes one input from a
`random.Random` in an empty folder, hands it to the plugin, and

- returns None where what came of it is right, by an oracle that is not ours;
- lets our own error through where the plugin refused the input with a sentence;
- raises `WrongError` where something else came of it, such as a good file that was refused.

Whatever else it raises is a raw error. A new kind is a module and its name in `KINDS`.
"""

from __future__ import annotations

import importlib
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

KINDS = ("nifti", "photographs", "masks", "cards", "weights", "runs", "lists", "dicom", "memory")
SLOW_SECONDS = 5.0
HUNG_SECONDS = 60


class WrongError(AssertionError):
    """The plugin took an input and made something else of it."""


class HungError(Exception):
    """A trial took so long that it was stopped."""


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Attributes
    ----------
    result : str
        "right", "refused", "slow", "raw" or "wrong".
    detail : str
        The sentence of a refusal, or what went wrong.
    seconds : float
    """

    result: str
    detail: str
    seconds: float


def is_ours(error: BaseException) -> bool:
    """Whether an error is one of the plugin's own, with a sentence for the user."""
    return type(error).__module__.partition(".")[0] == "napari_grata" and bool(str(error))


def attempt(
    kind: str, random: Random, folder: Path, *, slow_seconds: float = SLOW_SECONDS
) -> Outcome:
    """Make and try one input of a kind in an empty folder."""
    trial = importlib.import_module(f"tools.generators.{kind}").trial
    began = time.perf_counter()
    result, detail = "right", ""
    try:
        with _stopped_after(HUNG_SECONDS):
            trial(random, folder)
    except WrongError as error:
        result, detail = "wrong", str(error)
    except HungError:
        result, detail = "slow", f"stopped after {HUNG_SECONDS} s"
    except Exception as error:
        result, detail = (
            ("refused" if is_ours(error) else "raw"),
            f"{type(error).__name__}: {error}",
        )
    seconds = time.perf_counter() - began
    if seconds > slow_seconds and result in ("right", "refused"):
        result, detail = "slow", f"{seconds:.1f} s"
    return Outcome(result, detail, seconds)


def damaged(random: Random, data: bytes) -> bytes:
    """Return a file's bytes cut short, or with some of them changed, mostly near the beginning."""
    if not data:
        return data
    changed = bytearray(data)
    how = random.choice(("cut", "bytes", "bytes", "bits", "zeros", "longer"))
    reach = random.choice((min(len(changed), 400), len(changed)))
    if how == "cut":
        return bytes(changed[: random.randrange(len(changed))])
    if how == "longer":
        return bytes(changed) + bytes(random.randrange(256) for _ in range(random.randrange(1, 99)))
    if how == "zeros":
        start = random.randrange(reach)
        stop = min(len(changed), start + random.randrange(1, 33))
        changed[start:stop] = bytes(stop - start)
        return bytes(changed)
    for _ in range(random.randrange(1, 6)):
        place = random.randrange(reach)
        if how == "bits":
            changed[place] ^= 1 << random.randrange(8)
        else:
            changed[place] = random.choice((0, 1, 127, 128, 255, random.randrange(256)))
    return bytes(changed)


def expect(condition: Any, what: str) -> None:
    """Raise `WrongError` unless a condition holds."""
    if not condition:
        raise WrongError(what)


@contextmanager
def must_be_taken(good: bool) -> Iterator[None]:
    """Where an input is good, its refusal is wrong."""
    try:
        yield
    except Exception as error:
        if good and is_ours(error):
            raise WrongError(f"a good input was refused: {error}") from error
        raise


@contextmanager
def _stopped_after(seconds: int) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(*_: object) -> None:
        raise HungError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
