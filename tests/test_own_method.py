"""The example of a method of one's own, installed; and packages that bring none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.generators.models import write_tiny

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example as pip installs it."""
    place = tmp_path_factory.mktemp("installed")
    source = place / "source"
    source.mkdir()
    for name in ("pyproject.toml", "my_method.py"):
        (source / name).write_bytes((ROOT / "docs/examples/my_method" / name).read_bytes())
    options = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation")
    command = [sys.executable, "-m", "pip", "install", *options, "--target", place / "site", source]
    subprocess.run([str(part) for part in command], check=True)
    return place / "site"


def run(site: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join((str(site), str(ROOT)))
    return subprocess.run(
        [sys.executable, "-m", "napari_grata", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": paths, "COLUMNS": "300"},
        capture_output=True,
        text=True,
    )


def test_the_example_adapts_and_the_run_says_whose_it_is(installed: Path, tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "model", dimensions=2, channels=3, modality="fundus")
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scan.png")
    out = tmp_path / "out"
    options = ("--model", model, "--device", "cpu", "--method", "margin", "--json")
    told = run(installed, "adapt", tmp_path / "scan.png", *options, "--out", out)
    assert told.returncode == 0, told.stderr
    assert list(out.rglob("*adapted*"))
    said = "".join(path.read_text() for path in out.rglob("*.json")) + told.stdout
    assert "my-method 1.0" in said
    # Without the package the method is not known, and that is said; of its run, whose it was.
    again = run(tmp_path, "again", out / "run", "--out", tmp_path / "again")
    assert again.returncode == 2
    assert "the method 'margin' of the package my-method 1.0, which is not here" in again.stderr
    gone = run(tmp_path, "adapt", tmp_path / "scan.png", *options, "--out", tmp_path / "more")
    assert gone.returncode == 2
    assert "margin" in gone.stderr
    assert "Traceback" not in gone.stderr


def test_packages_that_bring_no_method_are_told_and_the_rest_works(tmp_path: Path) -> None:
    rest = ', title="a", summary="b", learns="theta")\nclass Theirs: ...\n'
    modules = {
        "theirs_broken": "class Broken(:\n",
        "theirs_taken": '@register(name="tent"' + rest,
        "theirs_computed": 'NAME = "x"\n@register(name=NAME' + rest,
        "theirs_none": "x = 1\n",
        "theirs_unset": '@register(name="unset", settings_used=("rate",)' + rest,
    }
    points = ["[napari_grata.methods]", "gone = theirs_gone.methods"]
    for name, text in modules.items():
        (tmp_path / f"{name}.py").write_text(text)
        points.append(f"{name} = {name}")
    about = tmp_path / "theirs-3.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 3.1\n")
    (about / "entry_points.txt").write_text("\n".join(points))
    told = run(tmp_path, "doctor", "--json", "--no-speed")
    findings = [one["text"] for one in json.loads(told.stdout)["findings"]]
    bad = [text for text in findings if "of the package theirs 3.1 is left out" in text]
    assert len(bad) == 6, findings
    assert any("there is no setting rate" in text for text in bad)
    assert any("there is a method called 'tent' already" in text for text in bad)
    assert any("no package 'theirs_gone'" in text for text in bad)
    # Where Python itself cannot read what a package offers.
    broken = tmp_path / "broken-1.0.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (broken / "entry_points.txt").write_text("[napari_grata.methods]\nno equals sign\n")
    help_ = run(tmp_path, "adapt", "--help")
    assert help_.returncode == 0
    assert "careful,learn-from-stack" in "".join(help_.stdout.split())
