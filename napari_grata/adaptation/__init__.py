"""Test-time adaptation: the methods, the one stream of records, its history and its run folder.

The names below are imported when first used; ``settings``, ``records``, ``slices`` and ``flags``
load no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "adapt": "stream",
    "AdaptationRun": "run",
    "Corrections": "corrections",
    "CorrectionsError": "corrections",
    "correct_run": "correcting",
    "taught_state": "correcting",
    "teaching_settings": "teaching",
    "reopen": "reopening",
    "ReopenedRun": "reopening",
    "Settings": "settings",
    "SettingsError": "settings",
    "Preset": "settings",
    "PRESETS": "settings",
    "preset": "settings",
    "Record": "records",
    "Flag": "records",
    "parse_slices": "slices",
    "describe_slices": "slices",
    "SlicesError": "slices",
    "flag_slice": "flags",
    "History": "history",
    "RunFolderError": "runfolder",
    "GraTa": "methods",
    "Consistency": "methods",
    "Source": "methods",
    "BatchNorm": "methods",
    "make_method": "methods",
}

__all__ = [
    "adapt",
    "AdaptationRun",
    "Corrections",
    "CorrectionsError",
    "correct_run",
    "taught_state",
    "teaching_settings",
    "reopen",
    "ReopenedRun",
    "Settings",
    "SettingsError",
    "Preset",
    "PRESETS",
    "preset",
    "Record",
    "Flag",
    "parse_slices",
    "describe_slices",
    "SlicesError",
    "flag_slice",
    "History",
    "RunFolderError",
    "GraTa",
    "Consistency",
    "Source",
    "BatchNorm",
    "make_method",
]

if TYPE_CHECKING:
    from .correcting import correct_run, taught_state
    from .corrections import Corrections, CorrectionsError
    from .flags import flag_slice
    from .history import History
    from .methods import BatchNorm, Consistency, GraTa, Source, make_method
    from .records import Flag, Record
    from .reopening import ReopenedRun, reopen
    from .run import AdaptationRun
    from .runfolder import RunFolderError
    from .settings import PRESETS, Preset, Settings, SettingsError, preset
    from .slices import SlicesError, describe_slices, parse_slices
    from .stream import adapt
    from .teaching import teaching_settings


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
