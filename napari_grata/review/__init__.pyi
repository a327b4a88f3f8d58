from .adapt_list import work_on_case, work_on_list
from .case_list import CaseList, case_of_scan
from .cases import (
    VERDICTS,
    Case,
    CaseState,
    CaseSummary,
    DecidedMask,
    Decision,
    DecisionError,
    ListError,
)
from .compare import (
    ADDED,
    DIFFERENCE_COLOURS,
    RELABELLED,
    REMOVED,
    SliceSummary,
    StructureChange,
    Summary,
    difference_map,
    flagged_slices,
    latest_flags,
    summarise,
)
from .figures import before_after, curves

__all__ = [
    "ADDED",
    "DIFFERENCE_COLOURS",
    "RELABELLED",
    "REMOVED",
    "VERDICTS",
    "Case",
    "CaseList",
    "CaseState",
    "CaseSummary",
    "DecidedMask",
    "Decision",
    "DecisionError",
    "ListError",
    "SliceSummary",
    "StructureChange",
    "Summary",
    "before_after",
    "case_of_scan",
    "curves",
    "difference_map",
    "flagged_slices",
    "latest_flags",
    "summarise",
    "work_on_case",
    "work_on_list",
]
