"""The report as one HTML file: text, tables and pictures, no script and nothing from outside."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from napari_grata.review.report.case import ReportCase
from napari_grata.review.report.parts import case_article, overview_row, provenance
from napari_grata.review.report.style import STYLE
from napari_grata.review.report.words import REPORT_ENDINGS, count, escape, local_time


class ReportError(OSError):
    """A report that could not be written; the message says where, why and what to do."""


def write_report(
    path: str | Path,
    cases: Iterable[ReportCase],
    *,
    title: str = "Adapted masks: report",
    overwrite: bool = False,
) -> Path:
    """Write cases into one HTML file.

    Cases are taken one after another and let go, so that a long list needs no more memory than
    its largest case. The file appears as a whole when it is finished.

    Parameters
    ----------
    path : path
        Ends in ``.html``; added where it is missing.
    cases : iterable of ReportCase
    title : str
        Shown at the top; must not name a patient.
    overwrite : bool
        Whether an older file may be replaced.

    Returns
    -------
    Path

    Raises
    ------
    FileExistsError
        If there is a file already and `overwrite` is False.
    ReportError
        If it cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in REPORT_ENDINGS:
        path = path.with_name(path.name + ".html")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already; nothing is overwritten. Name another file.")
    try:
        return _write(path, cases, title)
    except OSError as error:
        raise ReportError(
            f"The report {path} could not be written ({error.strerror or error}). Choose another "
            "folder, or make room; nothing else was changed."
        ) from error


def _write(path: Path, cases: Iterable[ReportCase], title: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # The overview comes first on the page but is known last: the cases wait in a file beside.
    handle, waiting = tempfile.mkstemp(prefix=".partial-", suffix=".html", dir=path.parent)
    page, page_name = tempfile.mkstemp(prefix=".partial-", suffix=".html", dir=path.parent)
    try:
        rows: list[str] = []
        states: list[str] = []
        made: dict[str, None] = {}
        with os.fdopen(handle, "w", encoding="utf-8") as body:
            for case in cases:
                try:
                    rows.append(overview_row(case))
                    states.append(case.state)
                    made.update(dict.fromkeys(provenance(case)))
                    body.write(case_article(case))
                finally:
                    case.close()
        with os.fdopen(page, "w", encoding="utf-8") as file:
            _head(file, title, rows, states, list(made))
            with open(waiting, encoding="utf-8") as body:
                while chunk := body.read(1 << 20):
                    file.write(chunk)
            file.write(_FOOT)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(page_name, 0o666 & ~umask)
        os.replace(page_name, path)
    finally:
        for name in (waiting, page_name):
            with suppress(OSError):
                os.unlink(name)
    return path


def _head(
    file: TextIO, title: str, rows: Sequence[str], states: Sequence[str], made: Sequence[str]
) -> None:
    tally = {state: list(states).count(state) for state in dict.fromkeys(states) if state}
    summary = ", ".join(f"{number} {escape(state)}" for state, number in tally.items())
    file.write(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1>\n"
        f"<p>{count(len(rows), 'case')}{': ' + summary if summary else ''}. "
        f"Written {local_time()}.</p></header>\n"
    )
    if rows:
        file.write(
            '<section class="overview"><h2>Overview</h2>\n<table><thead><tr>'
            "<th>Case, in order</th><th>State</th><th>Agreement, before and after (Dice)</th>"
            "<th>To look at</th><th>Distance from the source centre</th></tr></thead>\n<tbody>"
            + "\n".join(rows)
            + "</tbody></table>\n</section>\n"
        )
    if made:
        file.write(
            '<section class="made"><h2>How it was made</h2><ul>'
            + "".join(f"<li>{line}</li>" for line in made)
            + "</ul></section>\n"
        )


_FOOT = (
    "<footer>Made with napari-grata: research software, not a medical device. Cases carry codes; "
    "which scan a code stands for is kept beside the list, not in this report. Flags point to "
    "what a person should look at; they do not find all harm.</footer>\n</body></html>\n"
)
