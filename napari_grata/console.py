"""What every verb of the command line has: where it speaks, its options, how failures are told."""

from __future__ import annotations

import inspect
import json
import os
import sqlite3
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from napari_grata.adaptation.plan import Region
from napari_grata.adaptation.settings import PRESETS
from napari_grata.scans.files import FileError
from napari_grata.scans.scan import FORMATS

if TYPE_CHECKING:
    from napari_grata.segmenters import Segmenter

Item = TypeVar("Item")
Verb = Callable[..., dict[str, Any]]


class UsageError(ValueError):
    """The arguments do not fit together; shown without a traceback."""


class Console:
    """Where a verb speaks to the user; with ``--json`` the object alone goes to standard output."""

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.quiet = quiet
        self._out = sys.stderr if json else sys.stdout

    def say(self, text: str) -> None:
        """Print a line of what was done."""
        print(text, file=self._out, flush=True)

    def warn(self, sentences: Iterable[str]) -> None:
        """Print what the user should know, a sentence a line, to standard error."""
        for sentence in dict.fromkeys(sentences):
            print(sentence, file=sys.stderr)

    def bar(self, what: str, total: int | None = None) -> Any:
        """Return a bar with the time left, to standard error."""
        from tqdm import tqdm

        # A log file gets a line every few seconds, not a redraw every tenth.
        interval = 0.1 if sys.stderr.isatty() else 5.0
        return tqdm(desc=what, total=total, disable=self.quiet, mininterval=interval)

    def progress(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """Pass items on while the bar moves."""
        with self.bar(what, total) as bar:
            for item in items:
                yield item
                bar.update()


def add_verb(app: typer.Typer, name: str, function: Verb, more_help: str = "") -> None:
    """Make a verb of a function that takes a `Console` and returns what ``--json`` prints.

    ``exit_code`` in what it returns is the exit code; 0 otherwise.
    """

    def run(json: bool, quiet: bool, debug: bool, **options: Any) -> None:
        console = Console(json=json, quiet=quiet)
        raise typer.Exit(_run(lambda: function(console, **options), json, debug))

    common = inspect.signature(_common, eval_str=True).parameters.values()
    own = inspect.signature(function, eval_str=True).parameters.values()
    parameters = [*own, *common][1:]  # all but the console
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    words = inspect.cleandoc(function.__doc__ or "")
    app.command(name, help=f"{words}\n\n{more_help}")(run)


def flag(name: str, help: str) -> Any:
    """Declare an option that is given or not."""
    return typer.Option(name, help=help)


def option(help: str, *names: str, metavar: str | None = None) -> Any:
    """Declare an option that takes a value."""
    return typer.Option(*names, help=help, metavar=metavar)


def argument(metavar: str, help: str) -> Any:
    """Declare an argument by its place."""
    return typer.Argument(metavar=metavar, help=help, show_default=False)


def _common(
    *,
    json: Annotated[bool, flag("--json", "print the result as one JSON object")] = False,
    quiet: Annotated[bool, flag("--quiet", "no progress")] = False,
    debug: Annotated[bool, flag("--debug", "show the traceback of a failure")] = False,
) -> None:
    """Options that every verb takes."""


def _run(work: Callable[[], dict[str, Any]], as_json: bool, debug: bool) -> int:
    """Run a verb; return its exit code. Whatever goes wrong is told in a line."""
    try:
        result = work()
        code = int(result.pop("exit_code", 0))
        if as_json:
            print(json.dumps(result, indent=1))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("Stopped. What was finished is kept.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has gone: nothing more to say, and no traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        ours = type(error).__module__.split(".")[0] == "napari_grata"
        if _memory_ran_out(error):
            words = str(error) if ours else "There is not enough memory. Close other programs."
            print(f"napari-grata: {words}", file=sys.stderr)
            return 1
        hint = "" if ours or debug else " (--debug shows where)"
        words = str(error) if ours else f"{type(error).__name__}: {error}{hint}"
        print(f"napari-grata: {' '.join(words.split())}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) and ours and not _disk_failed(error) else 1


def _memory_ran_out(error: Exception) -> bool:
    """Whether an error says so, also one of PyTorch, if that was loaded at all."""
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from napari_grata.segmenters.devices import is_out_of_memory

    return is_out_of_memory(error)


def _disk_failed(error: BaseException | None) -> bool:
    """Whether an error of ours comes from a file that could not be written."""
    while error is not None and not isinstance(error, FileError | sqlite3.OperationalError):
        error = error.__cause__
    return error is not None


# -- arguments that several verbs share ----------------------------------------------------

Scans = Annotated[
    list[Path],
    argument(
        "SCAN",
        "a NIfTI, NRRD or MetaImage file, a photograph, several photographs or a folder of them, "
        "or a DICOM series: its folder, one of its files, or FOLDER#2 for the second in it",
    ),
]
Model = Annotated[str, option("name, folder with card.yaml, or .pth file")]
Out = Annotated[Path, option("folder for what is written")]
Device = Annotated[str, option("auto, cuda, cuda:1, mps or cpu")]
Method = Annotated[str, option(f"one of {', '.join(PRESETS)}")]
Seed = Annotated[int, option("of every random draw")]
ScanNames = Annotated[bool, flag("--scan-names", "name masks after scans: may name patients")]
MaskFormat = Annotated[
    str,
    option(
        f"of the masks: {', '.join(FORMATS)}; the scan's usual one if not given. dicom-seg repeats "
        "the patient's data, as the standard asks it to",
        "--format",
    ),
]
RegionText = Annotated[
    str | None,
    option(
        "only this rectangle of each slice, in displayed pixels",
        "--region",
        metavar="TOP,LEFT,BOTTOM,RIGHT",
    ),
]


def load_model(model: str | Path, device: str) -> Segmenter:
    """Load a model for a verb."""
    from napari_grata.segmenters import load_segmenter
    from napari_grata.segmenters.devices import spare_a_core

    spare_a_core()
    return load_segmenter(model, device=device)


def parse_region(text: str | None) -> Region | None:
    """Read ``TOP,LEFT,BOTTOM,RIGHT``; half-open, in displayed pixels."""
    if text is None:
        return None
    try:
        top, left, bottom, right = (int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--region is {text!r}; give four whole numbers: TOP,LEFT,BOTTOM,RIGHT."
        ) from None
    if not (0 <= top < bottom and 0 <= left < right):
        raise UsageError(f"--region is {text!r}; TOP < BOTTOM and LEFT < RIGHT, none below 0.")
    return top, left, bottom, right
