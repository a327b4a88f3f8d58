"""Words and numbers of the report."""

from __future__ import annotations

import html
from datetime import datetime

REPORT_ENDINGS = (".html", ".htm")


def escape(text: object) -> str:
    """Return text that is safe inside HTML."""
    return html.escape(str(text), quote=True)


def count(number: int, noun: str) -> str:
    """Return ``1 case``, ``3 cases``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def local_time(text: str = "") -> str:
    """Return a time of the log (ISO 8601, UTC) as this machine's clock shows it; now by default."""
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00")) if text else datetime.now()
    except ValueError:
        return text
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def amount(value: float | None, unit: str) -> str:
    """Return a number with sensible digits and its unit; a dash where there is none."""
    if value is None:
        return "–"
    digits = 0 if unit == "px" else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f} {unit}"


def percent(value: float | None) -> str:
    """Return a relative change, such as ``+4.2 %``."""
    return "–" if value is None else f"{100 * value:+.1f} %"
