"""What a person gets who installs the wheel beside napari."""

from __future__ import annotations

import configparser
import importlib.metadata
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from npe2 import PluginManifest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout."""
    if not (ROOT / "setup.cfg").is_file():
        pytest.skip("runs from a checkout: the wheel is built from its files")
    out = tmp_path_factory.mktemp("wheel")
    # Without isolation: the test needs no network.
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([str(part) for part in command], check=True, capture_output=True, env=env)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel is installed without what it depends on."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(wheel)], check=True)
    return target


def test_the_wheel_carries_manifest_models_samples_and_every_module(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "napari_grata/napari.yaml" in names
    for folder, prefix in (("models", "models"), ("sample_data", "sample_data")):
        for path in (ROOT / folder).rglob("*"):
            wanted = {".safetensors", ".yaml", ".gz", ".png", ".jpg", ".json"}
            if path.is_file() and path.suffix in wanted:
                assert f"napari_grata/{prefix}/{path.relative_to(ROOT / folder)}" in names
    for pattern in ("*.py", "*.pyi", "*.jinja", "*.safetensors"):
        for path in (ROOT / "napari_grata").rglob(pattern):
            assert path.relative_to(ROOT).as_posix() in names


def test_the_manifest_of_the_installed_distribution_is_valid() -> None:
    manifest = PluginManifest.from_distribution("napari-grata")
    assert manifest.name == "napari-grata"
    widgets = {widget.display_name for widget in manifest.contributions.widgets or []}
    assert widgets == {"Adapt to a new centre", "Segment this layer", "Adapt this layer"}
    assert manifest.contributions.readers
    assert manifest.contributions.sample_data


def test_every_command_of_the_manifest_can_be_imported() -> None:
    manifest = PluginManifest.from_distribution("napari-grata")
    for command in manifest.contributions.commands or []:
        assert callable(command.python_name and _resolve(command.python_name)), command.id


def _resolve(python_name: str):
    module, _, attribute = python_name.partition(":")
    return getattr(__import__(module, fromlist=[attribute]), attribute)


def test_the_manifest_at_the_root_is_the_one_in_the_package() -> None:
    root, packaged = ROOT / "napari.yaml", ROOT / "napari_grata" / "napari.yaml"
    assert root.read_text() == packaged.read_text()


def test_the_metadata_is_what_the_hub_and_the_plugin_manager_look_for() -> None:
    metadata = importlib.metadata.metadata("napari-grata")
    assert "Framework :: napari" in metadata.get_all("Classifier")
    assert metadata["License-Expression"] == "BSD-3-Clause"
    base = [r for r in metadata.get_all("Requires-Dist") if "extra ==" not in r]
    bindings = ("pyqt5", "pyqt6", "pyside")
    assert not [r for r in base if r.lower().startswith(bindings)]
    napari = next(r for r in base if r.startswith("napari"))
    # A pin from above would keep the plugin manager from installing us beside a newer napari.
    assert "<" not in napari
    assert "==" not in napari


def test_every_dependency_has_a_lower_bound_and_no_upper_one() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    for line in config["options"]["install_requires"].split():
        assert ">=" in line, line
        assert "<" not in line, line


def test_napari_finds_the_widget_and_the_models_of_an_installed_wheel(installed: Path) -> None:
    code = """
import importlib.resources
import napari, napari_grata, sys
from napari_grata.segmenters import list_models
assert napari_grata.__file__.startswith(sys.argv[1]), napari_grata.__file__
viewer = napari.Viewer(show=False)
dock, widget = viewer.window.add_plugin_dock_widget("napari-grata")
bundled = sorted(entry.name for entry in list_models() if entry.origin == "bundled" and entry.card)
titles = [action.text() for action in viewer.window.plugins_menu.actions()]
print("RESULT", type(widget).__name__, bundled, titles)
viewer.close()
"""
    env = dict(os.environ, PYTHONPATH=str(installed))
    run = subprocess.run(
        [sys.executable, "-c", code, str(installed)],
        capture_output=True,
        text=True,
        env=env,
        cwd=installed,
    )
    assert run.returncode == 0, run.stderr
    result = next(line for line in run.stdout.splitlines() if line.startswith("RESULT"))
    assert "GrataDock" in result
    assert "['brain-tissue-t1', 'fundus-disc-cup']" in result
    assert "GraTa" in result or "Adapt to a new centre" in result
