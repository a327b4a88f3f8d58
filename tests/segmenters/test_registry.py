"""Finding models, adding them, and weights that must be those of their card."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from napari_grata.segmenters import registry
from napari_grata.segmenters.loaders import (
    build_network,
    write_model,
)
from napari_grata.segmenters.registry import (
    ModelError,
    add_model,
    find_model,
    list_models,
    user_models_dir,
)
from napari_grata.segmenters.segmenter import load_segmenter
from tools.generators.models import tiny_card

CARD = tiny_card(channels=3, dimensions=2, modality="fundus")


@pytest.fixture(autouse=True)
def _places(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_GRATA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NAPARI_GRATA_MODELS", str(tmp_path / "shelf"))
    monkeypatch.setattr(registry, "bundled_models_dir", lambda: tmp_path / "bundled")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_network(CARD)


@pytest.fixture
def folder(tmp_path, network) -> Path:
    write_model(tmp_path / "from" / "anywhere", CARD, network)
    return tmp_path / "from" / "anywhere"


def left_in_user_folder() -> list[str]:
    folder = user_models_dir()
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_models_are_found_in_all_three_places(tmp_path, network):
    write_model(tmp_path / "bundled" / "a", replace(CARD, name="a"), network)
    write_model(user_models_dir() / "b", replace(CARD, name="b"), network)
    write_model(tmp_path / "shelf" / "c", replace(CARD, name="c"), network)
    found = [(entry.name, entry.origin, entry.error) for entry in list_models()]
    assert found == [("a", "bundled", None), ("b", "user", None), ("c", "environment", None)]
    assert load_segmenter("b", "cpu").card.name == "b"


def test_the_environment_may_name_one_model_folder_itself(tmp_path, network):
    write_model(tmp_path / "shelf", CARD, network)
    assert [entry.name for entry in list_models()] == ["tiny"]


def test_a_broken_model_is_listed_with_its_error_beside_the_good_ones(tmp_path, folder):
    (tmp_path / "shelf" / "bad").mkdir(parents=True)
    (tmp_path / "shelf" / "bad" / "card.yaml").write_text("name: bad\n")
    (tmp_path / "shelf" / "cut").mkdir()
    (tmp_path / "shelf" / "cut" / "card.yaml").write_text((folder / "card.yaml").read_text())
    add_model(folder)
    good, bad, cut = list_models()
    assert good.error is None
    assert "'structures' is missing" in bad.error
    assert "weights.safetensors is missing" in cut.error
    with pytest.raises(ModelError, match="cannot be used"):
        load_segmenter("bad", "cpu")


NEIGHBOURS = {
    "nested": "name: " + "[" * 5_000,
    "number": "version: " + "9" * 5_000,
    "date": "name: !!timestamp 2024-13-45",
    "aliases": "a: &a [x]\nb: *a\n",
    "not-text": b"\xff\xfe\x00",
    "nothing": "",
    "large": "#" * 10**6,
}


def test_bad_neighbours_are_listed_as_bad_with_words_and_the_rest_works(tmp_path, folder):
    for name, content in NEIGHBOURS.items():
        (tmp_path / "shelf" / name).mkdir(parents=True)
        raw = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "shelf" / name / "card.yaml").write_bytes(raw)
    (tmp_path / "shelf" / "loop").symlink_to(tmp_path / "shelf" / "loop")
    add_model(folder)
    entries = {entry.name: entry for entry in list_models()}
    assert set(entries) == {"tiny", *NEIGHBOURS}
    for name in NEIGHBOURS:
        assert entries[name].card is None
        assert str(tmp_path / "shelf" / name) in entries[name].error
        assert len(entries[name].error) < 3_000
    assert load_segmenter("tiny", "cpu").card.name == "tiny"


def test_places_that_cannot_be_read_are_no_error(tmp_path, folder, monkeypatch):
    add_model(folder)
    places = ["~nobody-of-this-name/models", str(tmp_path / "nowhere"), "x" * 5_000]
    monkeypatch.setenv("NAPARI_GRATA_MODELS", os.pathsep.join(places))
    assert [entry.name for entry in list_models()] == ["tiny"]
    with pytest.raises(ModelError, match="no model"):
        load_segmenter("x" * 5_000, "cpu")


def test_a_place_that_cannot_be_written_is_told_in_a_sentence(tmp_path, folder, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NAPARI_GRATA_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="cannot be added to your models"):
        add_model(folder)


def test_a_name_never_silently_means_another_model(tmp_path, network):
    write_model(tmp_path / "bundled" / "tiny", CARD, network)
    write_model(tmp_path / "shelf" / "tiny", replace(CARD, title="Impostor"), network)
    first, second = list_models()
    assert first.card is not None
    assert second.card is None
    assert "another name" in second.error
    assert find_model("tiny").folder == tmp_path / "bundled" / "tiny"


def test_an_unknown_name_is_answered_with_the_models_there_are(folder):
    add_model(folder)
    with pytest.raises(ModelError, match="Models here: tiny"):
        load_segmenter("tinny", "cpu")
    with pytest.raises(ModelError, match="no model at"):
        load_segmenter("no/such/folder", "cpu")


def test_an_added_model_can_be_loaded_by_name_after_its_origin_is_gone(folder):
    entry = add_model(folder)
    assert entry.folder == user_models_dir() / "tiny"
    for file in folder.iterdir():
        file.unlink()
    assert load_segmenter("tiny", "cpu").card.title == "Tiny"
    assert left_in_user_folder() == ["tiny"]


def test_a_model_can_be_added_by_one_of_its_files_and_twice(folder):
    first = add_model(folder / "card.yaml")
    assert add_model(folder / "weights.safetensors").folder == first.folder
    assert left_in_user_folder() == ["tiny"]


def test_adding_another_model_of_the_same_name_is_refused(folder, tmp_path):
    add_model(folder)
    write_model(tmp_path / "other", CARD, build_network(CARD))
    with pytest.raises(ModelError, match="another model called 'tiny'"):
        add_model(tmp_path / "other")
    assert left_in_user_folder() == ["tiny"]


@pytest.mark.parametrize("damage", ["card", "weights", "nothing"])
def test_a_failed_addition_leaves_nothing_behind(folder, damage):
    if damage == "card":
        (folder / "card.yaml").write_text("name: x")
    elif damage == "weights":
        (folder / "weights.safetensors").write_bytes(b"not weights")
    else:
        folder = folder / "elsewhere"
    with pytest.raises(ValueError, match=r"missing|not the file|nothing at"):
        add_model(folder)
    assert left_in_user_folder() == []
