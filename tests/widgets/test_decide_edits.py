"""What a reviewer draws is kept without being asked, and comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from napari_grata.adaptation.settings import Settings
from napari_grata.review.cases import CaseState
from napari_grata.widgets.decide.bar import CASE


@pytest.fixture
def adapted(make_dock: Any, finished: Any, qtbot: Any) -> Any:
    """Return a function that makes a dock with an adapted scan, ready to be decided on."""

    def make(**options: Any) -> Any:
        dock = make_dock(**options)
        dock.adapt.adapt_button.click()
        finished(dock)
        ready(dock, qtbot)
        return dock

    return make


def ready(dock: Any, qtbot: Any) -> None:
    """Wait until the decisions so far have been read, and everything is shown."""
    decide = dock.decide
    qtbot.waitUntil(
        lambda: decide.docket is not None and decide.docket.scan is dock.desk.scan, timeout=20_000
    )
    decide.refresh()


def draw(dock: Any, index: int = 2) -> Any:
    """Draw on the mask after, as a person would; returns the layer."""
    dock.desk.go_to(index)
    dock.decide.decide("edit")
    layer = dock.viewer.layers.selection.active
    layer.brush_size = 6
    layer.paint((index, 5, 5), layer.selected_label)
    return layer


def saved(dock: Any) -> np.ndarray | None:
    stack: np.ndarray | None = dock.decide.docket.work.edit(dock.desk.scan)
    return stack


def test_edit_takes_up_the_brush_on_the_chosen_structure(adapted: Any) -> None:
    dock = adapted()
    dock.review.table._chooser.setCurrentIndex(1)
    dock.desk.toggle_masks()
    dock.decide.decide("edit")
    layer = dock.viewer.layers.selection.active
    assert layer is dock.desk.session.after.layer
    assert layer.visible
    assert str(layer.mode) == "paint"
    assert layer.selected_label == 2
    assert dock.decide.docket.current()[dock.desk.in_view()].verdict == "edit"


def test_what_is_drawn_is_saved_after_the_last_stroke(adapted: Any, qtbot: Any) -> None:
    dock = adapted()
    dock.decide.edits._soon.setInterval(50)
    layer = draw(dock)
    assert saved(dock) is None
    qtbot.waitUntil(lambda: saved(dock) is not None, timeout=20_000)
    np.testing.assert_array_equal(saved(dock), layer.data)
    qtbot.waitUntil(lambda: not dock.decide.edits.job.running, timeout=5000)
    assert not dock.decide.edits.unsaved
    # Nothing more was drawn: no further version, however often somebody asks.
    assert dock.decide.save_edits()
    dock.desk.go_to(1)
    assert dock.decide.save_edits()
    assert dock.decide.docket.work.edit_version == 1


def test_save_edits_writes_at_once_and_undoing_is_saved_too(adapted: Any) -> None:
    dock = adapted()
    layer = draw(dock)
    assert dock.decide.save_edits()
    np.testing.assert_array_equal(saved(dock), layer.data)
    layer.undo()
    assert not dock.desk.session.after.edited()
    assert dock.decide.save_edits()
    np.testing.assert_array_equal(saved(dock), dock.desk.session.after.stack)
    assert dock.decide.docket.work.edit_version == 2


def test_a_copy_that_is_late_never_replaces_a_later_stroke(adapted: Any) -> None:
    dock = adapted()
    layer = draw(dock)
    drawings = dock.decide.edits.drawings
    late = drawings.fresh()
    layer.paint((2, 15, 15), layer.selected_label)
    assert dock.decide.save_edits()
    for copy in late:  # what a slow worker still had in hand
        drawings.keep(copy)
        drawings.settle(copy)
    np.testing.assert_array_equal(saved(dock), layer.data)
    work = dock.decide.docket.work
    assert all(entry.base for entry in work.edits)
    assert not dock.decide.edits.unsaved


def test_an_untouched_mask_is_never_saved_as_a_drawing(adapted: Any, finished: Any) -> None:
    dock = adapted()
    for index in range(6):
        dock.desk.go_to(index)
    dock.desk.session.after.layer.refresh()
    assert dock.decide.save_edits()
    dock.adapt.adapt_button.click()
    finished(dock)
    assert dock.decide.save_edits()
    assert saved(dock) is None


def test_accepting_a_drawing_names_its_version(adapted: Any) -> None:
    dock = adapted()
    dock.desk.go_to(2)
    dock.decide.decide("accept")
    assert dock.decide.docket.current()[2].mask.edit == 0
    draw(dock)
    dock.decide.decide("accept")
    decision = dock.decide.docket.current()[2]
    assert decision.mask.edit == 1
    assert saved(dock) is not None
    dock.decide.decide("keep-source")
    assert dock.decide.docket.current()[2].mask.edit == 0


def test_drawing_after_accepting_makes_the_decision_stale_but_not_an_edit(adapted: Any) -> None:
    dock = adapted()
    dock.desk.go_to(2)
    dock.decide.decide("accept")
    draw(dock)
    dock.decide.refresh()
    assert "being edited" in dock.decide.bar.sentence.said()
    assert "changed since" not in dock.decide.bar.sentence.said()
    dock.decide.decide("accept")
    layer = dock.viewer.layers.selection.active
    layer.paint((2, 30, 30), 1)
    dock.decide._soon.stop()
    dock.decide.refresh()
    assert "changed since" in dock.decide.bar.sentence.said()
    layer.undo()
    dock.decide.refresh()
    assert "changed since" not in dock.decide.bar.sentence.said()


def test_a_drawing_is_safe_when_a_new_adaptation_begins(adapted: Any, finished: Any) -> None:
    dock = adapted()
    layer = draw(dock)
    drawn = layer.data.copy()
    settings = Settings(method="grata", learning_rate=5e-2)
    dock.adapt.advanced.set_settings(settings)
    dock.adapt.adapt_button.click()
    finished(dock)
    assert layer in dock.viewer.layers
    assert layer is not dock.desk.session.after.layer
    assert dock.decide.save_edits()
    np.testing.assert_array_equal(saved(dock), drawn)
    assert not dock.desk.session.after.edited()


def test_a_drawing_comes_back_onto_the_mask_that_it_was_drawn_over(
    adapted: Any, qtbot: Any, finished: Any, tmp_path: Path
) -> None:
    dock = adapted()
    dock.adapt.advanced.set_settings(Settings(method="grata", learning_rate=1e-3))
    # The same scan, model, settings and seed give the same mask after.
    dock.desk.adapt("cpu", Settings(method="grata"), "all", None, str(tmp_path))
    finished(dock)
    layer = draw(dock)
    drawn = layer.data.copy()
    folder = dock.desk.session.run.folder
    dock.viewer.layers.clear()
    qtbot.waitUntil(lambda: dock.desk.scan is None, timeout=5000)
    dock.decide.refresh()
    dock.saving.reopen_from(folder)
    finished(dock)
    ready(dock, qtbot)
    session = dock.desk.session
    qtbot.waitUntil(lambda: session.after.edited(), timeout=5000)
    np.testing.assert_array_equal(session.after.layer.data, drawn)
    assert not np.array_equal(session.after.stack, drawn)
    assert [la.name for la in dock.viewer.layers if "edited" in la.name] == []


def test_a_drawing_over_another_mask_comes_back_in_a_layer_of_its_own(
    adapted: Any, qtbot: Any, finished: Any, volume: Path
) -> None:
    dock = adapted()
    drawn = draw(dock).data.copy()
    dock.viewer.layers.clear()
    qtbot.waitUntil(lambda: dock.desk.scan is None, timeout=5000)
    dock.decide.refresh()
    dock.opening.open(str(volume))
    ready(dock, qtbot)
    own = dock.viewer.layers["case_017 edited"]
    np.testing.assert_array_equal(own.data, drawn)
    np.testing.assert_allclose(own.scale, dock.desk.layer.scale)
    dock.adapt.advanced.set_settings(Settings(method="grata", learning_rate=5e-2))
    dock.adapt.adapt_button.click()
    finished(dock)
    dock.decide.refresh()
    assert not dock.desk.session.after.edited()
    np.testing.assert_array_equal(own.data, drawn)
    own.paint((1, 3, 3), 1)
    assert dock.decide.save_edits()
    np.testing.assert_array_equal(saved(dock), own.data)


def test_closing_the_window_saves_what_was_drawn(adapted: Any) -> None:
    dock = adapted()
    docket = dock.decide.docket
    drawn = draw(dock).data.copy()
    dock.viewer.close()
    np.testing.assert_array_equal(docket.work.edit(docket.scan), drawn)


def test_in_a_list_decisions_and_drawings_go_to_the_case(
    make_dock: Any, qtbot: Any, finished: Any, volume: Path, tmp_path: Path
) -> None:
    image: Any = nib.load(volume)
    for number in (1, 2, 3):
        data = np.asarray(image.dataobj) + number
        nib.save(nib.Nifti1Image(data, image.affine), tmp_path / f"scan{number}.nii.gz")
    volume.unlink()
    dock = make_dock(scan=None)
    dock.cases.open_list(str(tmp_path))
    dock.model.choose("tiny-brain")
    dock.adapt.advanced.set_settings(Settings(method="grata"))

    def in_view(key: str) -> None:
        qtbot.waitUntil(
            lambda: dock.cases.case is not None and dock.cases.case.key == key, timeout=20_000
        )
        ready(dock, qtbot)
        assert dock.decide.docket.key == key

    in_view("case-0001")
    dock.adapt.adapt_button.click()
    finished(dock)
    drawn = draw(dock).data.copy()
    dock.decide.bar.choose_scope(CASE)
    dock.decide.section.go_on.setChecked(True)
    dock.decide.decide("accept")
    in_view("case-0002")
    caselist = dock.cases.list
    decision = caselist.decisions("case-0001")[None]
    assert decision.verdict == "accept"
    assert decision.mask.edit == 1
    assert caselist.state("case-0001") is CaseState.ACCEPTED
    # The drawing belongs to the first case; over the second one it is nothing.
    assert caselist.work("case-0001").edit(dock.desk.scan) is None
    dock.decide.section.go_on.setChecked(False)
    dock.cases.previous()
    in_view("case-0001")
    qtbot.waitUntil(lambda: dock.desk.session is not None and bool(dock.desk.session.adapted))
    qtbot.waitUntil(lambda: dock.desk.session.after.edited(), timeout=10_000)
    np.testing.assert_array_equal(dock.desk.session.after.layer.data, drawn)
    dock.decide.refresh()
    assert dock.decide.bar.sentence.said().startswith("Whole case: accepted")
    assert "changed since" not in dock.decide.bar.sentence.said()
    dock.cases.ahead.pause()
    dock.cases.close_list()
