"""A report of one case or a whole list: one HTML file that opens offline and prints well.

The page is `report.html.jinja`, each case in it `report_case.html.jinja`: text, tables and
pictures, no script, nothing from outside, every value escaped. Nothing names a patient or a file.
"""

from __future__ import annotations

import base64
import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from napari_grata.scans.files import FileError, make_folder, nameless, templates, whole_file
from napari_grata.scans.scan import counted

from .cases import STATE_OF_VERDICT, CaseSummary, Decision
from .compare import StructureChange, Summary, flagged_slices, flags_of_run, summarise
from .final_masks import CaseMasks, is_stale

if TYPE_CHECKING:
    from napari_grata.adaptation import Flag, Record
    from napari_grata.adaptation.records import ChosenInfo
    from napari_grata.segmenters import Card

    from .case_list import CaseList, CaseWork

ENDINGS = (".html", ".htm")
TITLE = "Adapted masks: report"
MOST_FLAGS = 30
PICTURE_COLOURS = 192
"""A palette of so many colours halves a picture's size; contours and grey levels keep theirs."""


Decided = tuple[str, Decision, bool]
"""Where (the whole case, or a slice), what, and whether the mask was changed since."""


@dataclass(frozen=True)
class ReportCase:
    """What a report tells of one case.

    Attributes
    ----------
    code : str
        Such as ``case-0007``: never a file's name, which may name a patient.
    state : str
        In words, such as "accepted".
    card : Card or None
        Of the model.
    masks : CaseMasks or None
        The scan with its masks; None where it was not found.
    records : iterable of Record
        Of the run, for its curves.
    info : mapping
        What the run's store says of it: settings, versions, device, weights.
    shift : str
        How far the scan is from the source centre, in words.
    chosen : sequence of ChosenInfo
        Where a few reviewed slices decided whose masks are used.
    problem : str
        What went wrong with this case.
    close : callable
        Lets go of the case's files.
    """

    code: str
    state: str = ""
    card: Card | None = None
    masks: CaseMasks | None = None
    records: Iterable[Record] = ()
    flags: Mapping[int, tuple[Flag, ...]] = field(default_factory=dict)
    decisions: Sequence[Decided] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    shift: str = ""
    chosen: Sequence[ChosenInfo] = ()
    problem: str = ""
    close: Callable[[], None] = lambda: None

    def counts(self, number: int) -> str:
        """Say how many slices or photographs."""
        return counted(number, "slice") if self.masks is None else self.masks.scan.counts(number)

    def place(self, index: int) -> str:
        """Name a slice or photograph by its number."""
        return f"slice {index + 1}" if self.masks is None else self.masks.scan.place_name(index)


# -- from runs and lists to cases ----------------------------------------------------------


def case_of_run(folder: Path, code: str, *, work: CaseWork | None = None) -> ReportCase:
    """Return a run folder as a case of a report; a RunFolderError where it cannot be read.

    ``work`` knows what the user drew.
    """
    from napari_grata.adaptation import reopen

    run = reopen(folder)
    masks = None
    if run.scan is not None:
        make = CaseMasks if work is None else work.masks
        masks = make(run.scan, run.source_masks, run.adapted_masks)
    return ReportCase(
        code=code,
        card=run.card,
        masks=masks,
        records=run.records,
        flags=flags_of_run(run),
        info=run.info,
        chosen=run.chosen,
        problem=" ".join(run.missing),
        close=run.close,
    )


def report_cases(cases: CaseList) -> Iterator[ReportCase]:
    """Yield the cases of a list for a report, one at a time; each is read when its turn comes."""
    from napari_grata.adaptation import RunFolderError

    for case in cases.cases:
        key, work, summary = case.key, cases.work(case), cases.summary(case) or CaseSummary()
        problem = cases.problem(key) or summary.stale
        found = ReportCase(key)
        if work.run_folder is not None:
            try:
                found = case_of_run(work.run_folder, key, work=work)
                problem = " ".join(dict.fromkeys(filter(None, (problem, found.problem))))
            except (RunFolderError, OSError) as error:
                # Not the message as it is: it may hold a path, and that may name a patient.
                why = type(error).__name__
                problem = f"Its run {work.run_folder.name} cannot be read ({why})."
        yield replace(
            found,
            state=cases.state(key).value,
            shift=summary.shift_words,
            problem=nameless(problem, case.sources, key),
            decisions=decisions_of(cases, found),
        )


def decisions_of(cases: CaseList, told: ReportCase) -> list[Decided]:
    """Return the decisions in force on a case, the whole case first, for a report."""
    current, now = cases.decisions(told.code), cases.mask_now(told.code)
    order = sorted(current, key=lambda index: -1 if index is None else index)
    return [
        (
            "whole case" if index is None else told.place(index),
            current[index],
            is_stale(current[index], told.masks, now),
        )
        for index in order
    ]


# -- writing -------------------------------------------------------------------------------


def write_report(path: str | Path, cases: Iterable[ReportCase], *, overwrite: bool = False) -> Path:
    """Write cases into one HTML file, which appears as a whole when it is finished.

    Cases are let go one after another: a long list needs no more memory than its largest case.

    Parameters
    ----------
    path : path
        Ends in ``.html``; added where it is missing.
    overwrite : bool
        Whether an older file may be replaced.

    Raises
    ------
    FileError
        If there is a file already and `overwrite` is False, or it cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        path = path.with_name(path.name + ".html")
    if path.exists() and not overwrite:
        hint = "Nothing is overwritten: name another file."
        raise FileError("there is such a file already", path, hint)
    make_folder(path.parent)
    environment = templates("review")
    environment.filters |= {"local_time": local_time, "count": counted}
    words = {verdict: state.value for verdict, state in STATE_OF_VERDICT.items()}
    environment.filters["in_words"] = {**words, "accept": "mask after accepted"}.get
    environment.globals["most_flags"] = MOST_FLAGS
    article = environment.get_template("report_case.html.jinja")
    rows: list[dict[str, str]] = []
    made: dict[tuple[str, ...], None] = {}
    # The overview comes first on the page but is known last: the cases wait in a file.
    with whole_file(path) as page, _waiting_room(path) as waiting:
        for case in cases:
            try:
                summary = _summary(case)
                rows.append(_overview(case, summary))
                made.update(dict.fromkeys(_provenance(case)))
                waiting.write(article.render(case=_details(case, summary)) + "\n")
            finally:
                case.close()
        waiting.seek(0)
        tally = Counter(row["state"] for row in rows if row["state"])
        pieces = iter(lambda: waiting.read(1 << 20), "")
        template = environment.get_template("report.html.jinja")
        for text in template.generate(
            title=TITLE, rows=rows, tally=tally, made=list(made), articles=pieces
        ):
            page.write(text.encode())
    return path


def _waiting_room(path: Path) -> IO[str]:
    try:
        return tempfile.TemporaryFile("w+", encoding="utf-8", newline="", dir=path.parent)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise FileError(f"it cannot be written ({why})", path, "Choose another folder.") from error


def _summary(case: ReportCase) -> Summary | None:
    if case.masks is None or case.card is None:
        return None
    return summarise(case.masks.scan, case.card, case.masks.source, case.masks.shown())


def _overview(case: ReportCase, summary: Summary | None) -> dict[str, str]:
    """Return the case's row of the overview."""
    changes, others = summary.least_alike() if summary is not None else ([], 0)
    agreement = [f"{change.name} {change.agreement:.3f}" for change in changes]
    flagged = flagged_slices(case.flags)
    return {
        "code": case.code,
        "state": case.state,
        "agreement": ", ".join(agreement) + (f", {others} others changed less" * bool(others)),
        "look": case.counts(len(flagged)) if flagged else "",
        "shift": case.shift,
    }


def _provenance(case: ReportCase) -> list[tuple[str, ...]]:
    """Return what made the masks: model, hash of its weights, settings, versions."""
    if not case.info:
        return []
    model, versions = case.info.get("model", {}), case.info.get("versions", {})
    settings = case.info.get("settings", {})
    name, version = model.get("name", ""), model.get("version", "")
    title = case.card.title if case.card is not None else name
    return [
        (
            f"{title} ({name} {version})",
            model.get("weights_sha256", ""),
            ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in settings.items()),
            ", ".join(f"{key.replace('_', '-')} {value}" for key, value in versions.items()),
        )
    ]


def _details(case: ReportCase, summary: Summary | None) -> dict[str, Any]:
    """Return what the case's part of the page shows."""
    info = {k: v for k, v in case.info.items() if k not in ("scan", "notices", "slices")}
    return {
        "code": case.code,
        "state": case.state,
        "problem": case.problem,
        "facts": _facts(case),
        "decisions": case.decisions,
        "changes": [_change(change, summary) for change in summary.total]
        if summary is not None and summary.rows
        else [],
        "flags": [
            (case.place(index), flag.text)
            for index, flags in sorted(case.flags.items())
            for flag in flags
        ],
        "pictures": list(_pictures(case)),
        "settings": json.dumps(info, indent=1, ensure_ascii=False) if info else "",
    }


def _facts(case: ReportCase) -> str:
    adapted = []
    if case.info.get("started"):
        adapted.append(f"Adapted {local_time(str(case.info['started']))}")
    if case.info.get("device"):
        adapted.append(f"on {case.info['device']}")
    said = [f"{' '.join(adapted)}." if adapted else "", case.shift]
    if case.info.get("continued"):
        said.append("The model went on from an earlier case.")
    said += (
        f"The adapted model read rows {row0 + 1} to {row1} and columns {column0 + 1} to {column1} "
        f"of {case.place(index)}, as found."
        for index, (row0, column0, row1, column1) in _frames(case.records).items()
    )
    drawn = {} if case.masks is None else case.masks.drawn()
    for one in case.chosen:
        if left := [index for index in one["used_on"] if index not in drawn]:
            said.append(
                f"The masks of {case.counts(len(left))} were chosen on "
                f"{case.counts(len(one['reviewed']))}{_of_case(one)} that a person had reviewed"
                f"{', and of the others there it was said' if 'case' in one else ''}: "
                f"{one['words']}"
            )
    if drawn:
        said.append(f"A person drew on {case.counts(len(drawn))}.")
    return " ".join(part for part in said if part)


def _of_case(chosen: ChosenInfo) -> str:
    return f" of {chosen['case']}" if "case" in chosen else ""


def _frames(records: Iterable[Record]) -> dict[int, tuple[int, int, int, int]]:
    """Return the frames that were found, by slice."""
    frames = {record.slice_index: record.frame for record in records}
    return {index: frame for index, frame in sorted(frames.items()) if frame is not None}


def _change(change: StructureChange, summary: Summary) -> dict[str, Any]:
    """Return a row of the table, in the best unit there is: mL, mm² of one slice, or pixels."""
    size, unit = summary.voxel, "mL"
    if size is None:
        size, unit = summary.pixel if len(summary.rows) == 1 else None, "mm²"
    if size is None:
        size, unit = 1.0, "px"
    return {
        "name": change.name,
        "before": amount(change.source_pixels * size, unit),
        "after": amount(change.adapted_pixels * size, unit),
        "change": "–" if change.change is None else f"{100 * change.change:+.1f} %",
        "dice": change.agreement,
    }


def _pictures(case: ReportCase) -> Iterator[tuple[str, str, str]]:
    """Yield kind, words and PNG (base64) of each picture."""
    from .figures import before_after, curves, steps_of

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "picture.png"
        masks = case.masks
        if masks is not None and case.card is not None and masks.adapted:
            before_after(masks.scan, (masks.source, masks.shown()), case.card, path)
            words = "Scan; contours before (dashed) and after (solid); difference"
            yield "pictures", words, _as_base64(path)
        steps = steps_of(case.records)
        if len(steps) > 1:
            curves(steps, path)
            words = "Cosine similarity, learning rate and losses, step by step"
            yield "curves", words, _as_base64(path)


def _as_base64(path: Path) -> str:
    from PIL import Image

    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(PICTURE_COLOURS)
    buffer = io.BytesIO()
    small.save(buffer, format="png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


# -- words ---------------------------------------------------------------------------------


def local_time(text: str = "") -> str:
    """Return a time of the log (ISO 8601, UTC) as this machine's clock shows it; now by default."""
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00")) if text else datetime.now()
    except ValueError:
        return text
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def amount(value: float, unit: str) -> str:
    """Return a number with sensible digits and its unit."""
    digits = 0 if unit == "px" else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f} {unit}"
