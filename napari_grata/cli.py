"""The same verbs without a screen: ``napari-grata demo | models | segment | adapt | …``.

Exit codes: 0 done; 1 something failed on the way; 2 the arguments or the input are wrong (the
message says what, where and what to do); 130 stopped with Ctrl+C, what was finished is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from napari_grata import __version__, shift_verb
from napari_grata.adaptation.settings import PRESETS


class UsageError(ValueError):
    """The arguments do not fit together; shown without a traceback."""


def say(options: argparse.Namespace, *words: str) -> None:
    """Print for a person; with ``--json`` only the object goes to standard output."""
    print(*words, file=sys.stderr if options.json else sys.stdout)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")


def _scan_and_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "scan",
        nargs="+",
        type=Path,
        metavar="SCAN",
        help="a NIfTI file, a photograph, several photographs, or a folder of them",
    )
    parser.add_argument("--model", required=True, help="name, folder with card.yaml, or .pth file")
    parser.add_argument("--out", required=True, type=Path, help="folder for what is written")
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:1, mps or cpu")
    parser.add_argument("--slices", default="all", help='which slices, e.g. "all" or "10-20,25"')
    parser.add_argument(
        "--region",
        metavar="TOP,LEFT,BOTTOM,RIGHT",
        help="only this rectangle of each slice, in displayed pixels",
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="napari-grata",
        description="Adapt a segmentation model to scans from a new centre. "
        "Research software, not a medical device.",
    )
    parser.add_argument("--version", action="version", version=f"napari-grata {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    demo = verbs.add_parser("demo", help="open the plugin on sample scans, or do it headless")
    demo.add_argument("--headless", action="store_true", help="no window even where one could open")
    demo.add_argument("--sample", help="key of one sample (headless: default is a set of them)")
    demo.add_argument("--method", default="careful", help="preset used headless (careful)")
    demo.add_argument("--out", type=Path, default=Path("out/demo"), help="folder (out/demo)")
    _common(demo)

    models = verbs.add_parser("models", help="list the source segmenters, show one, or add one")
    models.add_argument("name", nargs="?", help="show this model's card")
    models.add_argument("--add", type=Path, metavar="PATH", help="folder with card.yaml, or .pth")
    _common(models)

    segment = verbs.add_parser("segment", help="masks of the source model, on the scan's own grid")
    _scan_and_model(segment)
    _common(segment)

    adapt = verbs.add_parser("adapt", help="masks before and after adaptation, run folder, plots")
    _scan_and_model(adapt)
    adapt.add_argument(
        "--method",
        default="careful",
        help=f"{', '.join(PRESETS)}; careful by default",
    )
    adapt.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        help="bfloat16 is faster where the device has it (see: doctor); masks differ a little",
    )
    adapt.add_argument("--seed", type=int, default=0, help="seed of every random draw (0)")
    adapt.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="changes",
        help="change one setting of the method, e.g. --set blend=0.2 --set passes=2",
    )
    _common(adapt)

    benchmark = verbs.add_parser("benchmark", help="compare methods on labelled scans by centre")
    benchmark.add_argument("data", type=Path, metavar="DATA", help="<centre>/images and /masks")
    benchmark.add_argument("--model", required=True)
    benchmark.add_argument("--methods", default="source,batch-norm,consistency,grata,careful")
    benchmark.add_argument("--labels", metavar="FILE:LABEL,…", help="e.g. 255:0,128:1,0:2")
    benchmark.add_argument("--centres", help="only these, separated by commas")
    benchmark.add_argument("--limit", type=int, help="only the first so many scans a centre")
    benchmark.add_argument("--out", required=True, type=Path)
    benchmark.add_argument("--device", default="auto")
    benchmark.add_argument("--seed", type=int, default=0)
    benchmark.add_argument("--jobs", type=int, default=1, help="processes side by side (1)")
    _common(benchmark)

    shift_verb.add_parser(verbs, _common)

    reopen = verbs.add_parser("reopen", help="show a saved run again: masks, plots, summary")
    reopen.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    reopen.add_argument("--scan", type=Path, help="the scan, if it has moved")
    reopen.add_argument("--out", type=Path, help="write plots and picture here")
    reopen.add_argument("--view", action="store_true", help="open it in napari")
    _common(reopen)

    doctor = verbs.add_parser("doctor", help="what runs here, how fast, and what stands in the way")
    doctor.add_argument("--no-speed", action="store_true", help="skip the five-second speed test")
    _common(doctor)

    again = verbs.add_parser("again", help="do a saved run again and compare the masks")
    again.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    again.add_argument("--scan", type=Path, help="the scan, if it has moved")
    again.add_argument("--model", help="the model, if it has moved")
    again.add_argument("--device", help="other than the one of the first time")
    again.add_argument("--out", required=True, type=Path, help="folder for the new run")
    _common(again)

    from napari_grata.list_verbs import add_parsers

    add_parsers(verbs, _common)
    return parser


def parse_region(text: str | None) -> tuple[int, int, int, int] | None:
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


def _is_for_the_person(error: Exception) -> bool:
    """Whether the message was written for the person: our own errors, and those of files."""
    ours = type(error).__module__.split(".")[0] == "napari_grata"
    return ours or isinstance(error, FileExistsError | FileNotFoundError | PermissionError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    # Imported here so that --help and a mistyped verb answer at once.
    from napari_grata import verbs

    try:
        result = verbs.VERBS[options.verb](options)
    except KeyboardInterrupt:
        print("Stopped. What was finished is kept.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has gone: nothing more to say, and no traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        ours = _is_for_the_person(error)
        if ours:
            print(f"napari-grata: {error}", file=sys.stderr)
        else:
            hint = "" if options.debug else " (--debug shows where)"
            print(f"napari-grata: {type(error).__name__}: {error}{hint}", file=sys.stderr)
        return 2 if ours else 1
    code = int(result.pop("exit_code", 0))
    if options.json:
        print(json.dumps(result, indent=1))
    return code
