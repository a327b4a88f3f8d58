"""DICOM folders in the dock: series are looked for in the background, and one is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtWidgets import (
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QInputDialog,
    QLineEdit,
    QPushButton,
)

pytest.importorskip("pydicom")

from napari_grata.segmenters.card import load_card
from napari_grata.segmenters.registry import user_models_dir
from napari_grata.widgets.state import Step, facts_of
from tools.generators.dicom import classic
from tools.generators.nnunet import DATASET, write_trained


def voxels(slices: int) -> np.ndarray:
    return np.random.default_rng(slices).integers(0, 1000, (slices, 24, 20), dtype=np.uint16)


def test_the_only_series_of_a_folder_opens(start: Any, tmp_path: Path) -> None:
    user = start()
    classic(voxels(5), tmp_path / "study", description="Head")
    user.dock.scan.open_series(str(tmp_path / "study"))
    user.wait(lambda: user.context.scan is not None)
    assert user.context.scan.n_slices == 5
    assert "study" not in user.context.layer.name
    assert user.context.problem == ""


def test_of_several_series_the_user_takes_one(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = start()
    classic(voxels(5), tmp_path / "study" / "a", series=3, description="Head")
    classic(voxels(7), tmp_path / "study" / "b", series=4, description="Neck")
    asked: list[list[str]] = []

    def choose(parent: Any, title: str, label: str, items: list[str], *rest: Any) -> Any:
        asked.append(items)
        return items[1], True

    monkeypatch.setattr(QInputDialog, "getItem", choose)
    user.dock.scan.open_series(str(tmp_path / "study"))
    user.wait(lambda: user.context.scan is not None)
    assert user.context.scan.n_slices == 7
    (words,) = asked
    assert ["Head" in words[0], "Neck" in words[1], "7 images" in words[1]] == [True] * 3


def test_a_folder_without_series_is_answered_in_words(start: Any, tmp_path: Path) -> None:
    user = start()
    (tmp_path / "note.txt").write_text("nothing")
    user.dock.scan.open_series(str(tmp_path))
    user.wait(lambda: user.context.problem)
    assert "no DICOM series" in user.context.problem
    assert user.context.scan is None


def _add(user: Any, trained: Path, press: Any = QDialogButtonBox.StandardButton.Ok) -> None:
    """Add a model, and answer what its card lacks."""
    user.dock.model.add([trained])
    user.wait(lambda: user.dock.findChildren(QDialog))
    (asked,) = user.dock.findChildren(QDialog)
    lines = {line.accessibleName(): line for line in asked.findChildren(QLineEdit)}
    lines["Centre"].setText("Utrecht")
    asked.findChild(QDialogButtonBox).button(press).click()
    user.wait(lambda: not user.dock.findChildren(QDialog))
    user.finish()


def test_images_that_a_model_reads_together_are_chosen_from_the_layers(
    start: Any, tmp_path: Path
) -> None:
    pytest.importorskip("dynamic_network_architectures")
    from napari_grata.scans import scan_from_array
    from napari_grata.widgets.model_card import choose_images

    two = {**DATASET, "channel_names": {"0": "T1", "1": "T2"}}
    kinds = {"normalization_schemes": ["ZScoreNormalization"] * 2}
    trained = write_trained(tmp_path / "two", dataset=two, use_mask_for_norm=[False] * 2, **kinds)
    user = start()
    context = user.context
    for number, depth in enumerate((3, 4, 4)):
        values = np.random.default_rng(number).normal(9, 1, (depth, 32, 32))
        context.add_scan(
            scan_from_array(values.astype(np.float32), spacing=(1, 1, 1), name=f"image {number}")
        )
    _add(user, trained)
    assert not user.dock.model.images_button.isHidden()
    assert "reads 2 images together" in facts_of(context).misfit
    dialog = choose_images(context)
    first, second = dialog.findChildren(QComboBox)
    read = next(b for b in dialog.findChildren(QPushButton) if b.text() == "Read together")
    assert first.currentText() == "image 2"
    second.setCurrentText("image 0")
    read.click()
    assert context.scan.channels == ()  # of three slices, and not of four
    second.setCurrentText("image 1")
    read.click()
    assert [one.name for one in context.scan.channels] == ["image 1"]
    user.settle()
    user.adapt()
    assert user.session.adapted_slices == set(range(4))


def test_from_a_trained_folder_and_a_series_to_a_segmentation(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All the way: open, add the model, adapt, review, weigh, choose, correct, accept, take out."""
    pytest.importorskip("highdicom")
    pytest.importorskip("dynamic_network_architectures")
    from napari_grata.scans import read_mask

    trained = write_trained(tmp_path / "nnUNetTrainer__nnUNetPlans__2d")
    rows, columns = np.mgrid[:32, :32]
    blob = 800 * np.exp(-((rows - 16) ** 2 + (columns - 14) ** 2) / 40)
    study = blob + np.random.default_rng(0).integers(0, 200, (8, 32, 32))
    classic(
        study.astype(np.uint16), tmp_path / "study", pixel=(1, 1), step=(0, 0, 1), modality="MR"
    )
    user = start()
    dock, context, weigh = user.dock, user.context, user.dock.weigh
    dock.scan.open_series(str(tmp_path / "study"))
    user.wait(lambda: context.scan is not None)
    before = context.entry
    _add(user, trained, QDialogButtonBox.StandardButton.Cancel)
    assert context.entry is before
    assert not list(user_models_dir().iterdir()), "what was cancelled is not kept"
    _add(user, trained)
    assert context.entry.card.source_centre == "Utrecht"
    assert load_card(context.entry.folder).source_centre == "Utrecht"
    assert user.session.segmented_slices == {context.in_view()}, "a first look at it"
    user.adapt()
    assert user.session.adapted_slices == set(range(8))
    user.press(weigh.propose_button)
    user.finish()
    proposed = weigh.found(user.session).proposed
    for index in proposed:
        user.paint(index, 16, 14)
        user.press(dock.correct.right)
    user.press(weigh.weigh_button)
    user.finish()
    assert weigh.found(user.session).weighing is not None
    if weigh.use_button.isEnabled():
        user.press(weigh.use_button)
        user.finish()
    others = sorted(set(range(8)) - set(proposed))
    user.paint(others[0], 4, 4, value=2)
    user.decisions_are_known()
    user.do("accept")
    assert "accepted" in user.decision()
    dock.window().show()
    user.press(dock.steps[Step.TAKE_OUT].header)
    user.settle()
    export, out = dock.export, tmp_path / "out"
    offered = [export.format.itemData(n) for n in range(export.format.count())]
    assert offered[0] == ""
    assert {"nifti", "dicom-seg", "seg-nrrd"} <= set(offered)
    assert "png" not in offered
    export.format.setCurrentIndex(offered.index("dicom-seg"))
    out.mkdir()
    export.save_to(out)
    user.finish()
    assert not context.problem, context.problem
    back = read_mask(out / "case-0001 adapted.dcm", context.scan)
    np.testing.assert_array_equal(back, user.session.adapted.as_shown())
    assert back[others[0], 4, 4] == 2
