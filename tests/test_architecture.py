"""The rules of the house: which way imports run, and what importing the package costs."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import napari_grata

PACKAGE = Path(napari_grata.__file__).parent
ROOMS = ["scans", "segmenters", "adaptation", "review", "evaluation", "widgets"]
# review measures masks with evaluation's metrics; evaluation knows nothing of review.
MAY_USE = {
    "scans": set(),
    "segmenters": {"scans"},
    "adaptation": {"scans", "segmenters"},
    "review": {"scans", "segmenters", "adaptation", "evaluation"},
    "evaluation": {"scans", "segmenters", "adaptation"},
    "widgets": {"scans", "segmenters", "adaptation", "review", "evaluation"},
}


@functools.cache
def imported_names(path: Path) -> set[str]:
    """Return the absolute names of all modules that a file imports, wherever in the file."""
    package = ["napari_grata", *path.relative_to(PACKAGE).with_suffix("").parts[:-1]]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_only_towards_the_scans(room: str) -> None:
    forbidden = set(ROOMS) - MAY_USE[room] - {room} | {"cli"}
    for path in (PACKAGE / room).rglob("*.py"):
        for name in imported_names(path):
            parts = name.split(".")
            if parts[0] == "napari_grata" and len(parts) > 1:
                assert parts[1] not in forbidden, f"{path} imports {name}"


@pytest.mark.parametrize("room", [room for room in ROOMS if room != "widgets"])
def test_rooms_below_the_widgets_know_nothing_of_qt_or_napari(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        for name in imported_names(path):
            top = name.split(".")[0]
            assert top not in {"qtpy", "PyQt5", "PyQt6", "PySide6", "napari", "magicgui"}, path


def test_sections_know_neither_one_another_nor_the_dock() -> None:
    widgets = PACKAGE / "widgets"
    sections = {path.stem for path in widgets.glob("*_section.py")}
    sections |= {"bar", "cases", "compare", "slice_table", "steps", "timeline"}
    for section in sections:
        others = sections - {section} | {"dock"}
        for name in imported_names(widgets / f"{section}.py"):
            assert name.rpartition(".")[2] not in others or "widgets" not in name, (section, name)


def test_no_module_names_a_qt_binding() -> None:
    bindings = {"PyQt5", "PyQt6", "PySide2", "PySide6"}
    for path in PACKAGE.rglob("*.py"):
        assert not {name.split(".")[0] for name in imported_names(path)} & bindings, path


# Modules that load neither torch nor Qt, one after the other in one process.
LIGHT = [
    "napari_grata",
    "napari_grata.cli",
    "napari_grata.doctor",
    "napari_grata.review",
    "napari_grata.evaluation",
    "napari_grata.scans",
    "napari_grata.scans.readers",
    "napari_grata.scans.samples",
    "napari_grata.segmenters",
    "napari_grata.segmenters.card",
    "napari_grata.segmenters.extent",
    "napari_grata.adaptation",
    "napari_grata.adaptation.settings",
    "napari_grata.adaptation.records",
    "napari_grata.adaptation.plan",
    "napari_grata.adaptation.shift",
    "napari_grata.widgets.reader",
]


def test_importing_loads_neither_torch_nor_qt_nor_do_the_lists_and_drawing(tmp_path: Path) -> None:
    code = """
import importlib, sys
HEAVY = {'torch', 'PyQt5', 'PyQt6', 'PySide6', 'qtpy', 'napari', 'matplotlib', 'pandas'}
def loaded():
    return HEAVY & {name.partition('.')[0] for name in sys.modules}
for module in sys.argv[2:]:
    importlib.import_module(module)
    assert not loaded(), (module, loaded())
from napari_grata.segmenters import registry
registry.list_models()
from napari_grata.adaptation.settings import PRESETS, Settings
Settings(method='tent')
assert not loaded(), ('the lists of models and methods', loaded())
from napari_grata.review import curves
curves([], sys.argv[1])
assert loaded() <= {'matplotlib', 'pandas'}, ('drawing', loaded())
assert 'matplotlib.pyplot' not in sys.modules
"""
    command = [sys.executable, "-c", code, tmp_path / "x.png", *LIGHT]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_nothing_needs_the_extras_before_a_file_does() -> None:
    code = (
        "import sys; sys.modules.update(pydicom=None, highdicom=None, SimpleITK=None); "
        "import napari_grata.cli, napari_grata.scans.readers, napari_grata.review.case_list"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
