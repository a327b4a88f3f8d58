"""A report of one case or a whole list: one HTML file that opens offline and prints well."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "ReportCase": "case",
    "ReportDecision": "case",
    "case_of_run": "case",
    "report_cases": "gather",
    "write_report": "page",
}

__all__ = ["ReportCase", "ReportDecision", "case_of_run", "report_cases", "write_report"]

if TYPE_CHECKING:
    from .case import ReportCase, ReportDecision, case_of_run
    from .gather import report_cases
    from .page import write_report


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
