"""``napari-grata doctor`` says in plain words what runs here, and fails only where something is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from napari_grata import doctor
from napari_grata.cli import main

HEADINGS = ["Programs", "Window", "Folders", "Computing", "Models"]


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    monkeypatch.setenv("NAPARI_GRATA_HOME", str(home))
    monkeypatch.delenv("NAPARI_GRATA_MODELS", raising=False)
    return home


def test_it_goes_through_everything_and_ends_well(capsys) -> None:
    assert main(["doctor", "--no-speed"]) == 0
    text = capsys.readouterr().out
    places = [text.index(f"\n{heading}\n") for heading in HEADINGS]
    assert places == sorted(places)
    assert "fundus-disc-cup" in text
    assert "brain-tissue-t1" in text
    assert "Nothing stands in the way." in text
    assert "Speed" not in text


def test_json_holds_the_findings_and_nothing_else_is_on_stdout(capsys) -> None:
    assert main(["doctor", "--no-speed", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == 0
    assert "exit_code" not in found
    assert [one for one in HEADINGS if one in {f["about"] for f in found["findings"]}] == HEADINGS
    assert {f["level"] for f in found["findings"]} <= {"good", "note", "problem"}


def test_quiet_says_nothing_where_nothing_is_wrong(capsys) -> None:
    assert main(["doctor", "--no-speed", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_the_speed_test_names_every_bundled_model_and_a_volume(capsys) -> None:
    lines = [text for _, text in doctor.speeds()]
    assert any(line.startswith("fundus-disc-cup, cpu, float32: ") for line in lines)
    assert any("brain-tissue-t1, cpu" in line and "for 160 slices" in line for line in lines)


def test_a_model_whose_weights_are_damaged_is_a_problem(own_home: Path, capsys) -> None:
    bundled = Path(doctor.__file__).parents[1] / "models" / "fundus-disc-cup"
    folder = own_home / "models" / "mine"
    folder.mkdir(parents=True)
    card = yaml.safe_load((bundled / "card.yaml").read_text(encoding="utf-8"))
    (folder / "card.yaml").write_text(yaml.safe_dump({**card, "name": "mine"}), encoding="utf-8")
    weights = bytearray((bundled / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(weights)
    assert main(["doctor", "--no-speed"]) == 1
    text = capsys.readouterr().out
    assert "!!  mine does not load" in text
    assert "Problems: 1." in text


def test_a_card_that_cannot_be_read_is_a_note_and_the_rest_goes_on(own_home: Path, capsys) -> None:
    folder = own_home / "models" / "broken"
    folder.mkdir(parents=True)
    (folder / "card.yaml").write_text("name: [", encoding="utf-8")
    assert main(["doctor", "--no-speed"]) == 0
    text = capsys.readouterr().out
    assert "--  broken" in text
    assert "ok  fundus-disc-cup" in text


def test_a_folder_that_cannot_be_written_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    # A file where the folder's parent should be: not even an administrator can write there.
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NAPARI_GRATA_HOME", str(tmp_path / "file"))
    assert main(["doctor", "--no-speed"]) == 1
    text = capsys.readouterr().out
    assert "!!  your models and lists" in text
    assert "NAPARI_GRATA_HOME" in text


def test_a_qt_binding_that_is_asked_for_but_not_there_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QT_API", "pyside2")
    found = list(doctor.window())
    assert any("pyside2, which is not installed" in line[1] for line in found)


def test_the_name_of_the_person_is_not_in_it() -> None:
    assert doctor._short(Path.home() / "data") == str(Path("~") / "data")
