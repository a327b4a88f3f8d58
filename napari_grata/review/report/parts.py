"""Parts of the report: a row of the overview, and one case with its pictures and tables."""

from __future__ import annotations

import base64
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from napari_grata.review.compare import StructureChange, Summary, summarise
from napari_grata.review.report.case import ReportCase
from napari_grata.review.report.words import amount, count, escape, local_time, percent

PICTURE_COLOURS = 192
"""A palette of so many colours halves a picture's size; contours and grey levels keep theirs."""


def overview_row(case: ReportCase) -> str:
    """Return the case's row of the overview."""
    summary = _summary(case)
    agreement = ""
    if summary is not None and summary.rows:
        agreement = ", ".join(f"{escape(c.name)} {c.agreement:.3f}" for c in summary.total)
    flagged = sum(1 for flags in case.flags.values() if flags)
    look = count(flagged, "photograph" if _is_photograph(case) else "slice") if flagged else "–"
    return (
        f'<tr><td><a href="#{escape(case.code)}">{escape(case.code)}</a></td>'
        f"<td>{escape(case.state)}</td><td>{agreement or '–'}</td><td>{look}</td>"
        f"<td>{escape(case.shift) or '–'}</td></tr>"
    )


def provenance(case: ReportCase) -> list[str]:
    """Return what made the masks, as lines of HTML: model, method, versions."""
    info = case.info
    if not info:
        return []
    model, versions = info.get("model", {}), info.get("versions", {})
    settings = info.get("settings", {})
    name = case.card.title if case.card is not None else model.get("name", "")
    return [
        f"Model: {escape(name)} ({escape(model.get('name', ''))} "
        f"{escape(model.get('version', ''))}), weights SHA-256 "
        f"<code>{escape(model.get('weights_sha256', ''))}</code>",
        f"Settings: {escape(_settings_line(settings))}",
        "Versions: "
        + escape(", ".join(f"{key.replace('_', '-')} {value}" for key, value in versions.items())),
    ]


def _settings_line(settings: Any) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in dict(settings).items())


def case_article(case: ReportCase) -> str:
    """Return the case as an article of HTML."""
    parts = [
        f'<article id="{escape(case.code)}"><h2>{escape(case.code)}'
        + (f'<span class="state">{escape(case.state)}</span>' if case.state else "")
        + "</h2>\n"
    ]
    if case.problem:
        parts.append(f'<p class="problem">{escape(case.problem)}</p>\n')
    parts.append(_facts(case))
    parts.append(_decisions(case))
    summary = _summary(case)
    if summary is not None and summary.rows:
        parts.append(_table(summary))
    parts.append(_flags(case))
    parts.append(_pictures(case))
    if case.info:
        kept = {k: v for k, v in case.info.items() if k not in ("scan", "notices", "slices")}
        text = json.dumps(kept, indent=1, ensure_ascii=False)
        parts.append(
            "<details><summary>All settings of the run</summary>"
            f"<pre>{escape(text)}</pre></details>\n"
        )
    return "".join(parts) + "</article>\n"


def _summary(case: ReportCase) -> Summary | None:
    if case.scan is None or case.card is None:
        return None
    return summarise(case.scan, case.card, case.source_masks, case.final_masks, case.flags)


def _is_photograph(case: ReportCase) -> bool:
    return case.scan is not None and case.scan.kind in ("photograph", "photographs")


def _facts(case: ReportCase) -> str:
    said = []
    if case.info.get("started"):
        said.append(f"Adapted {local_time(str(case.info['started']))}")
    if case.info.get("device"):
        said.append(f"on {case.info['device']}")
    facts = " ".join(said)
    more = [f"{facts}." if facts else "", case.shift]
    if case.info.get("continued"):
        more.append("The model went on from an earlier case.")
    if case.edited_masks:
        noun = "photograph" if _is_photograph(case) else "slice"
        more.append(f"A person drew on {count(len(case.edited_masks), noun)}.")
    text = " ".join(part for part in more if part)
    return f'<p class="facts">{escape(text)}</p>\n' if text else ""


def _decisions(case: ReportCase) -> str:
    if not case.decisions:
        return '<p class="facts">Nothing has been decided yet.</p>\n'
    rows = []
    for decision in case.decisions:
        verdict = escape(decision.verdict)
        if decision.stale:
            verdict += " (the mask was changed afterwards)"
        rows.append(
            f"<tr><td>{escape(decision.where)}</td><td>{verdict}</td>"
            f"<td>{escape(decision.reviewer)}</td><td>{escape(decision.difficulty)}</td>"
            f'<td>{escape(local_time(decision.time))}</td><td class="comment">'
            f"{escape(decision.comment)}</td></tr>"
        )
    return (
        "<h3>Decisions</h3><table><thead><tr><th>Where</th><th>Decision</th><th>Reviewer</th>"
        "<th>Difficulty</th><th>When</th><th>Comment</th></tr></thead><tbody>"
        + "".join(rows)
        + "</tbody></table>\n"
    )


def _table(summary: Summary) -> str:
    rows = []
    for change in summary.total:
        before, after, unit = _size(change, summary)
        rows.append(
            f'<tr><td>{escape(change.name)}</td><td class="n">{amount(before, unit)}</td>'
            f'<td class="n">{amount(after, unit)}</td><td class="n">{percent(change.change)}</td>'
            f'<td class="n">{change.agreement:.3f}</td></tr>'
        )
    return (
        '<h3>Before and after</h3><table><thead><tr><th>Structure</th><th class="n">Before</th>'
        '<th class="n">After</th><th class="n">Change</th><th class="n">Dice between them</th>'
        "</tr></thead><tbody>" + "".join(rows) + "</tbody></table>\n"
    )


def _size(change: StructureChange, summary: Summary) -> tuple[float | None, float | None, str]:
    """Return a structure's size in the best unit there is: mL, mm², or pixels."""
    if change.source_ml is not None:
        return change.source_ml, change.adapted_ml, "mL"
    found = [c for row in summary.rows for c in row.structures if c.name == change.name]
    if len(found) == 1 and found[0].source_mm2 is not None:
        return found[0].source_mm2, found[0].adapted_mm2, "mm²"
    return float(change.source_pixels), float(change.adapted_pixels), "px"


def _flags(case: ReportCase) -> str:
    rows = []
    for index, flags in sorted(case.flags.items()):
        for flag in flags:
            rows.append(f"<li>{escape(_slice_word(case, index))}: {escape(flag.text)}</li>")
    if not rows:
        return ""
    shown, rest = rows[:30], len(rows) - 30
    more = f"<li>and {rest} more</li>" if rest > 0 else ""
    return "<h3>To look at</h3><ul>" + "".join(shown) + more + "</ul>\n"


def _slice_word(case: ReportCase, index: int) -> str:
    """Name a slice by number; a photograph's own name may name a patient."""
    if case.scan is None:
        return f"slice {index + 1}"
    if _is_photograph(case):
        return f"photograph {index + 1}"
    return "image" if case.scan.kind == "image" else case.scan.slice_name(index)


def _pictures(case: ReportCase) -> str:
    from napari_grata.review.figures import before_after, curves

    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if case.scan is not None and case.card is not None and case.adapted_masks:
            masks = (case.source_masks, case.final_masks)
            path = before_after(case.scan, masks, case.card, folder / "pictures.png")
            words = "Scan; contours before (dashed) and after (solid); difference"
            found.append(_image(path, words, "pictures"))
        light = getattr(case.records, "without_masks", None)
        records: Sequence[Any] = list(light() if light is not None else case.records)
        steps = [r for r in records if r.phase == "adapt" and r.learning_rate is not None]
        if len(steps) > 1:
            words = "Cosine similarity, learning rate and losses, step by step"
            found.append(_image(curves(records, folder / "curves.png"), words, "curves"))
    return "".join(found)


def _image(path: Path, words: str, kind: str) -> str:
    from PIL import Image

    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(PICTURE_COLOURS)
    buffer = io.BytesIO()
    small.save(buffer, format="png", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<img class="{kind}" alt="{escape(words)}" title="{escape(words)}" '
        f'src="data:image/png;base64,{data}">\n'
    )
