"""Methods side by side: run on the scan in view, shown, written to files, and one taken."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_grata.adaptation import reopen
from napari_grata.adaptation.settings import preset
from napari_grata.evaluation.metrics import dice
from napari_grata.review.reproduce import again_command
from napari_grata.widgets.methods_table import LAYERS


def tick(table: Any, *names: str) -> None:
    for name, item in table.items.items():
        state = Qt.CheckState.Checked if name in names else Qt.CheckState.Unchecked
        item.setCheckState(0, state)


def compare(user: Any, *names: str) -> Any:
    """Run these methods side by side."""
    page = user.dock.methods
    tick(page.table, *names)
    user.press(page.run_button)
    user.finish()
    assert not user.context.problem, user.context.problem
    return page


def test_methods_are_run_shown_and_written_and_nothing_is_changed(
    start: Callable[..., Any], volume: Path, tmp_path: Path
) -> None:
    user = start(volume)
    user.adapt()
    session = user.session
    before, run = session.adapted.as_shown(), session.run
    user.dock.window().show()
    user.dock.adapt.compare_button.click()
    page = compare(user, "as-published", "tent")
    assert user.session is session
    assert session.run is run
    assert np.array_equal(session.adapted.as_shown(), before)
    results = {row.result.name: row for row in page.table.with_results()}
    assert list(results) == ["source", "as-published", "tent"]
    assert results["source"].result.change == 0
    for name, row in results.items():
        assert row.layer in user.viewer.layers
        assert row.layer.visible == row.item.isSelected()
        masks = row.result.masks
        assert np.array_equal(row.layer.data, session.scan.mask_stack(masks.items())), name
    first, second = results["as-published"], results["source"]
    page.table.clearSelection()
    for row in (first, second):
        row.item.setSelected(True)
    unlike = first.layer.data != second.layer.data
    assert unlike.any()
    assert np.array_equal(page._difference.data > 0, unlike)
    assert not first.layer.visible
    # What is seen while no words say otherwise is what a decision is about.
    user.dock.timeline.show_tab("Curves")
    assert page._difference is None
    user.dock.timeline.show_tab("Methods")
    assert page._difference.visible
    page.curve.setCurrentIndex(page.curve.findData(LAYERS))
    assert page.overlay.map.image.shape == (6, 2)  # steps, layers
    # A truth that is opened is compared with, and only now.
    user.viewer.add_labels(np.array(first.layer.data), name="truth")
    user.dock.measures.take(first.layer.data)
    user.wait(lambda: second.result.dice)
    assert set(first.result.dice.values()) == {1.0}
    of_disc = dice(second.layer.data > 0, first.layer.data > 0)
    assert second.result.dice["disc"] == pytest.approx(of_disc)
    assert of_disc < 1
    page.save_csv(tmp_path / "table.csv", steps=False)
    page.save_csv(tmp_path / "steps.csv", steps=True)
    for name in ("seen.png", "seen.svg"):
        page.save_figure(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000
    with (tmp_path / "table.csv").open(encoding="utf-8-sig") as file:
        assert [row["Dice disc"] for row in csv.DictReader(file)][1] == "1.0"
    with (tmp_path / "steps.csv").open(encoding="utf-8-sig") as file:
        rows = [row for row in csv.DictReader(file) if row["cosine"]]
    assert [float(row["cosine"]) for row in rows] == [
        record.cosine for record in first.result.records if record.phase == "adapt"
    ]


def test_one_of_them_becomes_the_result_like_any_run_and_undo_goes_back(
    start: Callable[..., Any], volume: Path, tmp_path: Path
) -> None:
    user = start(volume)
    user.adapt()
    session, own = user.session, user.session.run
    user.decisions_are_known()
    user.paint(2, 5, 5, value=2)
    user.context.reviewed.call_right(session, 2, True)
    before = session.adapted.as_shown()
    page = compare(user, "tent")
    result = page.table.rows["tent"].result
    user.context.run_parent = str(tmp_path)
    page.table.clearSelection()
    page.table.rows["tent"].item.setSelected(True)
    user.press(page.use_button)
    user.finish()
    assert not user.context.problem, user.context.problem
    assert session.run.settings.method == "tent"
    assert session.settings == preset("tent").settings
    assert np.array_equal(session.adapted.as_shown(), session.scan.mask_stack(result.masks.items()))
    saved = reopen(session.run.folder, session.scan)
    assert saved.state == "finished"
    assert all(np.array_equal(saved.adapted_masks[i], mask) for i, mask in result.masks.items())
    saved.close()
    folder = session.run.folder
    assert str(folder.name) in again_command(folder)
    page.add_saved(folder)
    user.wait(lambda: len(page.table.with_results()) == 3)
    assert page.table.with_results()[-1].result.change == result.change
    while user.context.undo.undo_words and session.run is not own:
        user.context.undo.undo()
        user.finish()
    assert session.run is own
    assert np.array_equal(session.adapted.as_shown(), before)
    assert result.run is not None
    while user.context.undo.redo_words:
        user.context.undo.redo()
        user.finish()
    assert session.run.settings.method == "tent"
    assert session.run.folder == folder
    assert np.array_equal(session.adapted.as_shown(), session.scan.mask_stack(result.masks.items()))
    user.context.undo.undo()
    assert session.run is own
    assert np.array_equal(session.adapted.as_shown(), before)
    assert set(user.context.reviewed.of(session)) == {2}


def test_what_is_finished_stays_where_a_comparison_is_cancelled_in_the_middle(
    start: Callable[..., Any], volume: Path
) -> None:
    user = start(volume)
    user.adapt()
    session, run, before = user.session, user.session.run, user.session.adapted.as_shown()
    table = user.dock.methods.table
    tick(table, "as-published", "tent", "dyna")
    user.dock.methods.run_button.click()
    user.wait(lambda: len(table.results()) == 2)
    user.press(user.dock.progress.cancel_button)
    user.finish()
    assert not user.context.problem, user.context.problem
    kept = [result.name for result in table.results()]
    assert kept[:2] == ["source", "as-published"]
    assert "dyna" not in kept
    assert session.run is run
    assert np.array_equal(session.adapted.as_shown(), before)
    assert [row.result.name for row in table.chosen()] == ["as-published"]
    user.press(user.dock.methods.use_button)
    user.finish()
    assert session.run is not run
    # Each is there once where they are run again.
    compare(user, "as-published", "dyna")
    assert [result.name for result in table.results()] == ["source", "as-published", "dyna"]
