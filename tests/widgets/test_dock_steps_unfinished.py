"""Going on with a run that was cancelled, and where the model began anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def _cancel_early(dock: Any, first_record: Any, finished: Any) -> None:
    first_record(dock)
    dock.desk.runner.cancel()
    finished(dock)


def test_a_cancelled_run_is_finished_with_what_was_learned(
    make_dock: Any, first_record: Any, finished: Any
) -> None:
    dock = make_dock(learning_rate=0.05, predict="average", passes=30)
    assert not dock.unfinished.line.isVisibleTo(dock)
    _cancel_early(dock, first_record, finished)
    session = dock.desk.session
    learnt = session.run.step
    assert learnt < 180
    assert dock.unfinished.line.isVisibleTo(dock)
    assert "of 6 slices" in dock.unfinished.words.said()
    dock.unfinished.finish_button.click()
    finished(dock)
    assert session.adapted == set(range(6))
    assert session.run.step == learnt
    assert [record.phase for record in session.stream[-6:]] == ["predict"] * 6
    assert len(dock.review.table.model.rows) == 6
    assert not dock.unfinished.line.isVisibleTo(dock)
    assert "6 slices adapted" in dock.message.said()


def test_a_cancelled_run_can_go_on(make_dock: Any, first_record: Any, finished: Any) -> None:
    dock = make_dock(passes=20)
    _cancel_early(dock, first_record, finished)
    assert dock.desk.session.run.position < 120
    dock.unfinished.go_on_button.click()
    finished(dock)
    assert dock.desk.session.run.position == 120
    assert dock.adapt.steps.last() == 120
    assert len(dock.adapt.plot.data) == 120


def test_a_state_that_was_taken_is_not_an_unfinished_run(make_dock: Any, finished: Any) -> None:
    dock = make_dock(learning_rate=0.05)
    dock.adapt.adapt_button.click()
    finished(dock)
    dock.adapt.steps.choose(2)
    dock.adapt.steps.use_button.click()
    finished(dock)
    assert not dock.unfinished.line.isVisibleTo(dock)


def test_the_curves_mark_where_the_model_began_anew(
    make_dock: Any, finished: Any, tmp_path: Path
) -> None:
    dock = make_dock(mode="every-n", reset_every=2)
    dock.adapt.set_run_parent(str(tmp_path / "runs"))
    dock.adapt.adapt_button.click()
    finished(dock)
    assert dock.desk.session.resets == (3, 5)
    dock.adapt.plot._redraw()
    assert dock.adapt.plot._marks.text().endswith("2 resets")
    dock.desk.session.close_run()
    (folder,) = (tmp_path / "runs").iterdir()
    again = make_dock(scan=None)
    again.saving.reopen_from(folder)
    finished(again)
    assert again.desk.session.resets == (3, 5)
