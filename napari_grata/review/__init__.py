"""Look at what adaptation did: differences, areas and volumes, flags, figures, cases, decisions.

Names are imported when first used; nothing here loads torch or Qt.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "ADDED": "compare",
    "REMOVED": "compare",
    "RELABELLED": "compare",
    "DIFFERENCE_COLOURS": "compare",
    "SliceSummary": "compare",
    "StructureChange": "compare",
    "Summary": "compare",
    "difference_map": "compare",
    "difference_stack": "compare",
    "summarise": "compare",
    "summarise_record": "compare",
    "latest_flags": "compare",
    "before_after": "figures",
    "curves": "figures",
    "Case": "cases",
    "CaseState": "cases",
    "CaseSummary": "cases",
    "CaseList": "caselist",
    "ListError": "caselist",
    "case_of_scan": "caselist",
    "Decision": "decisions",
    "DecisionError": "decisions",
    "DecisionLog": "decisions",
    "VERDICTS": "decisions",
    "work_on_case": "ahead",
    "work_on_list": "ahead",
}

__all__ = [
    "ADDED",
    "REMOVED",
    "RELABELLED",
    "DIFFERENCE_COLOURS",
    "SliceSummary",
    "StructureChange",
    "Summary",
    "difference_map",
    "difference_stack",
    "summarise",
    "summarise_record",
    "latest_flags",
    "before_after",
    "curves",
    "Case",
    "CaseState",
    "CaseSummary",
    "CaseList",
    "ListError",
    "case_of_scan",
    "Decision",
    "DecisionError",
    "DecisionLog",
    "VERDICTS",
    "work_on_case",
    "work_on_list",
]

if TYPE_CHECKING:
    from .ahead import work_on_case, work_on_list
    from .caselist import CaseList, ListError, case_of_scan
    from .cases import Case, CaseState, CaseSummary
    from .compare import (
        ADDED,
        DIFFERENCE_COLOURS,
        RELABELLED,
        REMOVED,
        SliceSummary,
        StructureChange,
        Summary,
        difference_map,
        difference_stack,
        latest_flags,
        summarise,
        summarise_record,
    )
    from .decisions import VERDICTS, Decision, DecisionError, DecisionLog
    from .figures import before_after, curves


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
