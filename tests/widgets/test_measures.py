"""The tab "Measures": what is measured, when, against which truth, and what is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from napari.utils.notifications import notification_manager
from qtpy.QtCore import Qt
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QFileDialog

from napari_grata.review.measurements import AREA, TO_TRUTH, VOLUME
from napari_grata.widgets import measure_section
from napari_grata.widgets.measure_section import MeasureSection
from napari_grata.widgets.theme import theme_colours

SHAPE = (4, 40, 48)
DICE_TO_TRUTH = "Dice" + TO_TRUTH


def box(*, grown: int = 0, inner: bool = True) -> np.ndarray:
    """Return a disc of 10 × 12 pixels with a cup in it, larger by some rows."""
    mask = np.zeros(SHAPE[1:], dtype=np.uint8)
    mask[10 : 20 + grown, 10:22] = 1
    if inner:
        mask[13:17, 14:18] = 2
    return mask


class Reader:
    """Someone who looks at the tab."""

    def __init__(self, stage: Any, qtbot: Any) -> None:
        self.stage, self.context, self.qtbot = stage, stage.context, qtbot
        self.section = MeasureSection(stage.context)
        self.section.resize(700, 240)
        qtbot.addWidget(self.section)

    @property
    def session(self) -> Any:
        return self.context.session

    def fill(self, source: bool = True, adapted: bool = True) -> None:
        """Let masks come in, as a run brings them: the adapted one is larger."""
        for index in range(self.context.scan.n_slices):
            if source:
                self.session.put_source(index, box())
            if adapted:
                self.session.put_adapted(index, box(grown=2))
        self.session.redraw()
        self.session.masks_changed.emit(None)

    def look(self) -> None:
        with self.qtbot.waitExposed(self.section):
            self.section.show()
        self.settle()

    def settle(self) -> None:
        """Wait until what is asked for is measured."""
        section = self.section
        self.qtbot.wait(1)
        self.qtbot.waitUntil(
            lambda: (
                not (
                    section._soon.isActive()
                    or section._queue.busy
                    or section._files.busy
                    or section.note.said().startswith("Measuring")
                )
            ),
            timeout=20_000,
        )

    @property
    def figures(self) -> pd.DataFrame:
        return self.section.table.figures

    def row(self, structure: str, name: str) -> pd.Series:
        found = self.figures
        (row,) = [r for _, r in found.iterrows() if (r.structure, r.quantity) == (structure, name)]
        return row

    def heads(self) -> list[str]:
        table = self.section.table
        columns = enumerate(table.frame_model.columns)
        return [c.name for number, c in columns if not table.isColumnHidden(number)]

    def cells(self, name: str) -> list[str]:
        model = self.section.table.frame_model
        number = [c.name for c in model.columns].index(name)
        return [model.text(row, number) for row in range(model.rowCount())]

    def paint(self, index: int, row: int, column: int) -> None:
        self.context.go_to(index)
        layer = self.session.adapted.layer
        layer.brush_size = 5
        layer.paint((index, row, column), 1)

    def offers(self) -> list[Any]:
        self.section.menu.aboutToShow.emit()
        return list(self.section.menu.actions())


@pytest.fixture
def reader(stage: Any, qtbot: Any) -> Reader:
    """A stack of four slices of 2 × 2 × 3 mm without masks; the tab is not in view yet."""
    stage.viewer.layers.clear()
    stage.open(SHAPE, (3.0, 2.0, 2.0))
    return Reader(stage, qtbot)


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What napari's notifications say."""
    said: list[str] = []

    def hear(notification: Any) -> None:
        said.append(notification.message)

    notification_manager.notification_ready.connect(hear)
    yield said
    notification_manager.notification_ready.disconnect(hear)


def test_the_slice_in_view_is_measured_in_millimetres(reader: Reader) -> None:
    reader.fill()
    reader.look()
    area = reader.row("disc", AREA)
    assert area.unit == "mm²"
    assert (area.source, area.adapted) == (120 * 4, 144 * 4)
    assert reader.heads() == [
        "structure",
        "quantity",
        "source",
        "adapted",
        "change",
        "remark",
    ]
    first = [reader.cells(name)[0] for name in reader.heads()[:-1]]
    assert first == ["disc", "area  mm²", "480.0", "576.0", "+96.0"]
    assert reader.cells("remark")[0] == "+20.0 %"
    model = reader.section.table.frame_model
    tip = model.data(model.index(0, 2), Qt.ItemDataRole.ToolTipRole)
    assert "Area of the structure in this slice" in tip
    scan, said = reader.context.scan, reader.section.note
    assert scan.slice_name(reader.context.in_view()) in said.said()
    reader.context.go_to(3)
    reader.settle()
    assert scan.slice_name(3) in said.said()


def test_structures_stand_together_in_the_order_of_the_card_with_their_colour(
    reader: Reader,
) -> None:
    reader.fill()
    reader.look()
    structures = reader.cells("structure")
    assert list(dict.fromkeys(structures)) == ["disc", "cup"]
    assert structures == sorted(structures, reverse=True)
    model = reader.section.table.frame_model
    icon = model.data(model.index(0, 0), Qt.ItemDataRole.DecorationRole)
    image = icon.pixmap(12, 12).toImage()
    assert image.pixelColor(image.width() // 2, image.height() // 2).name() == "#56b4e9"
    reader.section.table.sortByColumn(3, Qt.SortOrder.DescendingOrder)
    assert reader.cells("adapted")[0] == f"{reader.figures['adapted'].max():.1f}"


def test_the_whole_case_is_measured_in_millilitres(reader: Reader) -> None:
    reader.fill()
    reader.look()
    reader.section.scope.setCurrentIndex(1)
    reader.settle()
    volume = reader.row("disc", VOLUME)
    assert volume.unit == "mL"
    assert volume.source == pytest.approx(4 * 120 * 12 / 1000)
    assert set(reader.figures["structure"]) == {"disc", "cup"}


def test_what_is_drawn_gets_a_column_of_its_own_and_undo_takes_it_away(reader: Reader) -> None:
    reader.fill()
    reader.look()
    reader.paint(0, 30, 30)
    reader.settle()
    area = reader.row("disc", AREA)
    assert area.edited > area.adapted
    assert area.change == area.edited - area.source
    assert "edited" in reader.heads()
    reader.session.adapted.layer.undo()
    reader.settle()
    assert "edited" not in reader.heads()


def test_a_case_is_measured_again_after_a_stroke_but_not_for_every_slice(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []
    original = measure_section.measure_case

    def counting(*args: Any, **kwargs: Any) -> Any:
        measured.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(measure_section, "measure_case", counting)
    reader.fill()
    reader.look()
    reader.section.scope.setCurrentIndex(1)
    reader.settle()
    assert len(measured) == 2  # a structure each
    for stroke in range(2):
        for index in (1, 3, 2):
            reader.context.go_to(index)
            reader.settle()
        assert len(measured) == 2 + 2 * stroke
        reader.paint(2, 30, 30 + 6 * stroke)
        reader.settle()
        assert len(measured) == 4 + 2 * stroke
    assert reader.row("disc", VOLUME).edited > 0


def test_a_truth_layer_is_compared_with_until_it_is_taken_away(reader: Reader) -> None:
    reader.fill()
    reader.look()
    truth = reader.stage.viewer.add_labels(reader.session.adapted.stack.copy(), name="drawn by AB")
    reader.stage.viewer.add_labels(np.zeros((3, 3), dtype=np.uint8), name="another size")
    offers = reader.offers()
    assert [action.text() for action in offers] == ["Layer “drawn by AB”", "A file …"]
    offers[0].trigger()
    reader.settle()
    assert reader.row("disc", DICE_TO_TRUTH).adapted == 1.0
    assert reader.row("disc", DICE_TO_TRUTH).source < 1.0
    assert "truth" in reader.heads()
    assert "Compared with the truth." in reader.section.note.said()
    reader.offers()[-1].trigger()
    reader.settle()
    assert "truth" not in reader.heads()
    assert truth in reader.stage.viewer.layers


def test_a_truth_is_for_the_session_it_was_opened_for(reader: Reader) -> None:
    reader.fill()
    reader.look()
    first = reader.context.layer
    truth = reader.stage.viewer.add_labels(reader.session.adapted.stack.copy(), name="truth")
    reader.section.take(truth.data)
    reader.stage.open(SHAPE, (3.0, 2.0, 2.0))  # at once another scan
    reader.fill()
    reader.settle()
    assert "truth" not in reader.heads()
    reader.context.choose_layer(first)
    reader.settle()
    assert "truth" in reader.heads()


def test_a_truth_file_is_read_and_one_on_another_grid_is_a_sentence(
    start: Any, volume: Path, tmp_path: Path, told: list[str]
) -> None:
    import nibabel as nib

    user = start(volume)
    user.adapt()
    user.dock.window().show()
    user.dock.timeline.show_tab("Measures")
    section = user.dock.measures
    user.wait(lambda: len(section.table.figures))
    good, bad = tmp_path / "good.nii.gz", tmp_path / "bad.nii.gz"
    affine = np.diag([-1.0, 1.5, 4.0, 1.0])
    data = np.zeros((40, 48, 6), dtype=np.uint8)
    data[12:28, 14:34] = 1
    nib.save(nib.Nifti1Image(data, affine), good)
    nib.save(nib.Nifti1Image(data[:20], affine), bad)
    section.take(bad)
    user.wait(lambda: any("another grid" in text for text in told))
    assert any(text.endswith("Nothing was changed.") for text in told)
    section.take(good)
    user.wait(lambda: DICE_TO_TRUTH in set(section.table.figures["quantity"]))
    # The truth shows no cup, so nothing is said about the cup against it.
    figures = section.table.figures
    against = figures[figures["quantity"].str.endswith(TO_TRUTH)]
    assert set(against["structure"]) == {"disc"}
    assert "no cup" in section.note.said()


def test_copy_and_ctrl_c_give_plain_numbers_with_units(reader: Reader, qtbot: Any) -> None:
    reader.fill()
    reader.look()
    reader.section.copy_button.click()
    copied = QGuiApplication.clipboard().text()
    lines = [line.split("\t") for line in copied.splitlines()]
    assert lines[0] == ["structure", "quantity", "unit", "source", "adapted", "change"]
    assert lines[1] == ["disc", AREA, "mm²", "480", "576", "96"]
    assert len(lines) == 1 + len(reader.figures)
    QGuiApplication.clipboard().clear()
    qtbot.keyClick(reader.section.table, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    assert QGuiApplication.clipboard().text() == copied


def test_everything_is_saved_and_a_folder_that_is_none_is_a_sentence(
    reader: Reader, tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader.fill()
    reader.look()
    answers = [tmp_path / "m.csv", tmp_path / "m.csv" / "below.csv"]
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(answers.pop(0)), ""))
    save = reader.section.save_button
    save.click()
    assert (save.isEnabled(), save.text()) == (False, "Measuring …")
    reader.settle()
    lines = (tmp_path / "m.csv").read_text(encoding="utf-8-sig").splitlines()
    assert {line.split(",")[1] for line in lines[1:]} == {"1", "2", "3", "4", ""}
    assert (save.isEnabled(), save.text()) == (True, "Save CSV …")
    save.click()
    reader.settle()
    assert told[0] == "The measurements are in m.csv."
    assert told[1].endswith("Nothing was changed.")
    assert (save.isEnabled(), save.text()) == (True, "Save CSV …")


def test_without_masks_it_says_what_to_do(reader: Reader) -> None:
    reader.look()
    assert "segment the scan first" in reader.section.note.said()
    assert not reader.section.copy_button.isEnabled()
    assert not reader.section.save_button.isEnabled()


def test_a_hidden_tab_measures_nothing_until_it_is_looked_at(reader: Reader) -> None:
    reader.fill(adapted=False)
    reader.settle()
    assert reader.figures.empty
    reader.look()
    assert set(reader.figures["structure"]) == {"disc", "cup"}
    assert "adapted" not in reader.heads()
    assert "change" not in reader.heads()


def test_a_slice_without_a_mask_is_named(reader: Reader) -> None:
    reader.session.put_source(0, box())
    reader.look()
    reader.context.go_to(2)
    reader.settle()
    assert reader.section.note.said().endswith("there is no mask of this slice yet.")
    assert reader.figures.empty


def test_where_there_is_one_slice_there_is_no_choice(
    start: Any, photograph: Path, volume: Path
) -> None:
    user = start(photograph)
    user.adapt()
    user.dock.window().show()
    user.dock.timeline.show_tab("Measures")
    section = user.dock.measures
    user.wait(lambda: len(section.table.figures))
    assert not section.scope.isVisible()
    assert set(section.table.figures["unit"]) <= {"px", ""}
    assert "does not tell the size of a pixel" in section.note.said()
    user.open(volume)
    user.wait(section.scope.isVisible)


def test_it_fits_beside_the_dock_and_takes_the_themes(reader: Reader) -> None:
    reader.fill()
    reader.look()
    assert reader.section.minimumSizeHint().width() <= 480
    for name in ("light", "dark"):
        reader.context.theme_changed.emit(theme_colours(name))
        assert theme_colours(name).background in reader.section.table.styleSheet()
