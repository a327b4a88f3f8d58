"""The dock below the canvas: curves, time slider, jumps, and the strip over the slices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QColor, QWheelEvent
from qtpy.QtWidgets import QApplication, QWidget

from napari_grata.adaptation.records import Flag
from napari_grata.widgets.curves import (
    NO_COSINE,
    NO_LEARNING,
    NOTHING_YET,
    Curves,
    figure,
    moving_mean,
)
from napari_grata.widgets.slice_figures import SliceRow
from napari_grata.widgets.slice_table import SliceTable
from napari_grata.widgets.state import facts_of
from napari_grata.widgets.steps import StepsSection
from napari_grata.widgets.theme import theme_colours
from napari_grata.widgets.timeline import Timeline

Start = Callable[..., Any]
LOST = Flag("cup-lost", "The cup shrank to 40 %.")
NAN = float("nan")


def show(widget: Any, qtbot: Any, width: int = 640, height: int = 170) -> Any:
    widget.resize(width, height)
    qtbot.addWidget(widget)
    with qtbot.waitExposed(widget):
        widget.show()
    return widget


@pytest.fixture
def curves(stage: Any, qtbot: Any) -> Curves:
    return show(Curves(stage.context), qtbot)


def fill(curves: Curves, stage: Any, *records: Any) -> None:
    stage.take(*records)
    curves.draw()
    QApplication.processEvents()


def pixel(curves: Curves, step: float) -> QPoint:
    plot = curves.plots[0]
    scene = plot.box.mapViewToScene(QPointF(step, 0.0))
    return curves.canvas.mapFromScene(scene)


def spans(curves: Curves) -> list[list[float]]:
    """Return the range of steps of both plots."""
    return [plot.box.viewRange()[0] for plot in curves.plots]


# --- curves --------------------------------------------------------------------------------------


def test_a_thousand_records_at_once_are_drawn_once(curves: Any, stage: Any, qtbot: Any) -> None:
    drawn = []
    curves.plots[0].curve.sigPlotChanged.connect(drawn.append)
    for step in range(1, 1001):
        stage.take(stage.record(step))
    assert not drawn
    qtbot.waitUntil(lambda: bool(drawn))
    assert len(drawn) == 1
    x, y = curves.plots[0].curve.getOriginalDataset()
    np.testing.assert_allclose(y, np.sin(np.arange(1, 1001)))
    assert x[-1] == 1000


def test_ten_thousand_steps_are_held_exactly_and_drawn_with_few_points(
    curves: Any, stage: Any
) -> None:
    fill(curves, stage, *(stage.record(step) for step in range(1, 10_001)))
    assert len(curves.data.rows) == 10_000
    assert len(curves.plots[0].curve.getData()[0]) < 6_000


@pytest.mark.parametrize("step", [3, 20, 37])
def test_a_click_on_a_step_goes_to_its_slice(
    curves: Any, stage: Any, qtbot: Any, step: int
) -> None:
    fill(curves, stage, *(stage.record(s, s + 10) for s in range(1, 41)))
    with qtbot.waitSignal(curves.step_chosen) as caught:
        at = pixel(curves, step)
        qtbot.mouseClick(curves.canvas.viewport(), Qt.MouseButton.LeftButton, pos=at)
    assert caught.args == [step + 10, step]
    with qtbot.assertNotEmitted(curves.step_chosen, wait=20):
        at = QPoint(4, 60)
        qtbot.mouseClick(curves.canvas.viewport(), Qt.MouseButton.LeftButton, pos=at)


def test_the_arrow_keys_walk_from_step_to_step(curves: Any, stage: Any, qtbot: Any) -> None:
    fill(curves, stage, *(stage.record(s, s) for s in range(1, 11)))
    curves.step_chosen.connect(lambda _index, step: stage.context.look_back(step))
    stage.context.look_back(4)
    seen = []
    curves.step_chosen.connect(lambda index, step: seen.append((index, step)))
    for key in (Qt.Key.Key_Right, Qt.Key.Key_Left, Qt.Key.Key_Left, Qt.Key.Key_End):
        qtbot.keyClick(curves.canvas, key)
    qtbot.keyClick(curves.canvas, Qt.Key.Key_Right)
    assert seen == [(5, 5), (4, 4), (3, 3), (10, 10), (10, 10)]


def test_the_step_under_the_cursor_is_named_with_its_slice_and_figures(
    stage: Any, qtbot: Any
) -> None:
    section = show(StepsSection(stage.context), qtbot)
    curves = section.curves
    known = {"cosine": -0.256, "learning_rate": 2.1e-5}
    fill(curves, stage, *(stage.record(s, s, **known) for s in range(1, 41)))
    qtbot.mouseMove(curves.canvas.viewport(), QPoint(1, 1))
    qtbot.mouseMove(curves.canvas.viewport(), pixel(curves, 12))
    qtbot.waitUntil(lambda: curves.hovered_row == 11)
    name = stage.context.scan.slice_name(12)
    assert section.words.said() == f"step 12 · {name} · similarity −0.26 · rate 2.1×10⁻⁵"


def test_undone_steps_are_gaps_in_the_curve_marked_and_counted(curves: Any, stage: Any) -> None:
    undone = {"cosine": NAN, "learning_rate": NAN, "undone": True}
    records = (stage.record(s, **(undone if s in (5, 9) else {})) for s in range(1, 21))
    fill(curves, stage, *records)
    plot = curves.plots[0]
    assert np.flatnonzero(np.isnan(plot.curve.getOriginalDataset()[1])).tolist() == [4, 8]
    path = plot.curve.curve.getPath()
    assert sum(path.elementAt(i).isMoveTo() for i in range(path.elementCount())) >= 3
    assert plot.undone.data["x"].tolist() == [5, 9]
    assert "undone" in curves.describe(4)
    assert curves.marks() == "✕ 2 undone"


def test_a_value_between_two_gaps_is_still_drawn(curves: Any, stage: Any) -> None:
    gaps = (stage.record(s, **({"cosine": NAN} if s in (50, 52) else {})) for s in range(1, 101))
    fill(curves, stage, *gaps)
    assert curves.plots[0].dots.data["x"].tolist() == [51]


def test_infinite_losses_do_not_stretch_the_axis(curves: Any, stage: Any) -> None:
    loss = (stage.record(s, auxiliary_loss=np.inf if s == 3 else 0.5) for s in range(1, 11))
    fill(curves, stage, *loss)
    curves.show_pair("Losses")
    low, high = curves.plots[0].box.viewRange()[1]
    assert -0.2 < low < high < 1.0


def test_flagged_slices_are_marked_at_their_last_step_whichever_way_they_are_counted(
    curves: Any, stage: Any, qtbot: Any
) -> None:
    table = SliceTable(stage.context)
    qtbot.addWidget(table)
    # The flag of a first pass is gone in the second; the final mask of another slice has one.
    first = [stage.record(s, s, flags=(LOST,) if s == 2 else ()) for s in range(1, 6)]
    second = [stage.record(s + 5, s) for s in range(1, 6)]
    fill(curves, stage, *first, *second)
    fill(curves, stage, stage.record(10, 4, phase="predict", flags=(LOST,)))
    table.refresh()
    assert curves.plots[0].flags.data["x"].tolist() == [9]
    assert curves.describe(8).endswith(LOST.text)
    assert "1 flagged" in table.totals.said()
    assert facts_of(stage.context).flagged == 1


def test_the_cosine_axis_is_fixed_and_the_rate_axis_fits(curves: Any, stage: Any) -> None:
    rates = (stage.record(s, cosine=0.1, learning_rate=3e-5 * s) for s in range(1, 11))
    fill(curves, stage, *rates)
    low, high = curves.plots[0].box.viewRange()[1]
    assert low <= -1
    assert high >= 1
    assert high - low < 2.5
    low, high = curves.plots[1].box.viewRange()[1]
    assert low < 0 < 3e-4 < high < 4e-4
    assert "×10⁻⁴" in curves.plots[1].title.toPlainText()


def test_losses_can_be_chosen(stage: Any, qtbot: Any) -> None:
    section = show(StepsSection(stage.context), qtbot)
    fill(section.curves, stage, *(stage.record(s) for s in range(1, 11)))
    section.pair.setCurrentText("Losses")
    shown = [plot.curve.getOriginalDataset()[1][0] for plot in section.curves.plots]
    assert shown == [0.5, 0.02]


def test_a_method_of_one_signal_says_that_it_has_no_similarity(curves: Any, stage: Any) -> None:
    one = {"cosine": None, "auxiliary_loss": None}
    fill(curves, stage, *(stage.record(s, **one) for s in range(1, 11)))
    assert curves.plots[0].note.toPlainText() == NO_COSINE
    assert curves.plots[1].note.toPlainText() == ""
    assert len(curves.plots[1].curve.getOriginalDataset()[0]) == 10


def test_methods_that_do_not_learn_show_one_sentence_instead_of_plots(
    curves: Any, stage: Any
) -> None:
    none = dict.fromkeys(("cosine", "learning_rate", "auxiliary_loss", "pseudo_loss"))
    assert curves.sentence.text() == NOTHING_YET
    fill(curves, stage, *(stage.record(0, s, done=s, **none) for s in range(1, 11)))
    assert curves.sentence.isVisible()
    assert curves.sentence.text() == NO_LEARNING
    stage.open((5, 12, 16))
    curves.draw()
    assert curves.sentence.text() == NOTHING_YET


def test_both_plots_have_one_step_axis_after_a_photograph_and_then_a_stack(
    stage: Any, qtbot: Any
) -> None:
    section = show(StepsSection(stage.context), qtbot)
    curves = section.curves
    fill(curves, stage, *(stage.record(s) for s in range(1, 41)))
    stage.open((12, 16))
    fill(curves, stage, *(stage.record(s) for s in range(1, 7)))
    stage.open((40, 12, 16))
    fill(curves, stage, *(stage.record(s) for s in range(1, 41)))
    first, second = spans(curves)
    assert first == second
    assert first[0] < 1 < 40 < first[1] < 45
    left, right, low, high = curves.axis()
    assert [low, high] == pytest.approx(first)
    # The slider lies on the same axis.
    section.slider.offer(40, 17)
    on_slider = section.slider.mapTo(section, QPoint(round(section.slider.place(17)), 0)).x()
    on_plot = curves.canvas.mapTo(section, pixel(curves, 17)).x()
    assert abs(on_slider - on_plot) <= 1
    assert left < right


def test_zooming_moves_both_plots_stays_while_steps_come_in_and_is_left_again(
    curves: Any, stage: Any, qtbot: Any
) -> None:
    fill(curves, stage, *(stage.record(s) for s in range(1, 101)))
    whole = spans(curves)[0]
    viewport, at = curves.canvas.viewport(), pixel(curves, 50)
    event = QWheelEvent(
        QPointF(at),
        QPointF(viewport.mapToGlobal(at)),
        QPoint(0, 0),
        QPoint(0, 120),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.ControlModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(viewport, event)
    first, second = spans(curves)
    assert first == second
    assert first[1] - first[0] < whole[1] - whole[0]
    fill(curves, stage, stage.record(101))
    assert spans(curves)[0] == pytest.approx(first), "a zoomed view stays while steps come in"
    qtbot.mouseDClick(viewport, Qt.MouseButton.LeftButton, pos=at)
    assert spans(curves)[1][1] > 101


def test_slices_of_one_batch_share_a_step(curves: Any, stage: Any) -> None:
    batch = [stage.record(s, 2 * s + k, done=2 * s - 1 + k) for s in (1, 2, 3) for k in (0, 1)]
    fill(curves, stage, *batch)
    assert curves.data.steps == [1, 1, 2, 2, 3, 3]
    assert curves.data.at(2.3) == 2
    assert list(curves.data.batch(3)) == [2, 3]
    names = [stage.context.scan.slice_name(index) for index in (4, 5)]
    assert ", ".join(names) in curves.describe(2)


@pytest.mark.parametrize(("step", "row"), [(-5, 0), (1, 0), (2.9, 1), (3.2, 1), (99, 2)])
def test_the_nearest_step_is_found_between_steps_that_are_far_apart(
    curves: Any, stage: Any, step: float, row: int
) -> None:
    fill(curves, stage, *(stage.record(s) for s in (1, 3, 10)))
    assert curves.data.at(step) == row


def test_themes_change_ground_and_text(curves: Any, stage: Any) -> None:
    fill(curves, stage, *(stage.record(s) for s in range(1, 11)))
    for name in ("light", "dark"):
        stage.viewer.theme = name
        picture = curves.canvas.grab().toImage()
        colours = theme_colours(name)
        assert picture.pixelColor(picture.width() - 2, 2).name() == colours.background
        pen = curves.plots[0].curve.opts["pen"]
        assert QColor(pen.color()).name() == colours.text


def contrast(first: str, second: str) -> float:
    """Return the WCAG 2 contrast ratio of two colours, from 1 (same) to 21 (black on white)."""

    def luminance(colour: str) -> float:
        q = QColor(colour)
        parts = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in (q.redF(), q.greenF(), q.blueF())
        ]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("name", ["dark", "light"])
def test_text_and_marks_stand_out_from_the_theme(name: str) -> None:
    colours = theme_colours(name)
    assert contrast(colours.muted, colours.background) >= 4.5
    for mark in (colours.attention, colours.wrong, colours.accent):
        assert contrast(mark, colours.background) >= 3.0


def test_the_moving_mean_skips_gaps_and_keeps_a_constant() -> None:
    values = np.full(500, 3.0)
    values[100:110] = np.nan
    mean = moving_mean(values)
    assert np.isnan(mean[100:110]).all()
    np.testing.assert_allclose(mean[np.isfinite(values)], 3.0)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "0"),
        (2.1e-5, "2.1×10⁻⁵"),
        (-0.25, "−0.25"),
        (0.0207, "0.0207"),
        (123456.0, "1.2×10⁵"),
        (NAN, "none"),
    ],
)
def test_figures_are_written_as_people_write_them(value: float, words: str) -> None:
    assert figure(value) == words


# --- strip and pages -----------------------------------------------------------------------------


@pytest.fixture
def timeline(stage: Any, qtbot: Any) -> Timeline:
    made = Timeline(stage.context)
    made.add_tab("Curves", QWidget())
    made.add_tab("Slices", QWidget(), only_stacks=True)
    return show(made, qtbot)


def test_a_click_on_the_strip_goes_to_the_slice_and_names_it_as_the_scan_does(
    timeline: Any, stage: Any, qtbot: Any
) -> None:
    strip = timeline.strip
    at = QPoint(round(strip.width() * 26.5 / 53), 12)
    qtbot.mouseClick(strip, Qt.MouseButton.LeftButton, pos=at)
    assert stage.context.in_view() == 26
    assert timeline.slice_name.text() == stage.context.scan.slice_name(26)
    assert timeline.slice_name.toolTip().endswith("27 of 53")
    qtbot.keyClick(strip, Qt.Key.Key_Right)
    assert stage.context.in_view() == 27
    qtbot.keyClick(strip, Qt.Key.Key_End)
    assert stage.context.in_view() == 52


def test_the_strip_tells_of_change_flags_decisions_and_corrections(
    timeline: Any, stage: Any
) -> None:
    stage.take(stage.record(1, 3, flags=(LOST,)), stage.record(2, 4))
    stage.context.decision_marks = {3: "✓"}
    stage.session.drawn_slices = {3}
    stage.context.decisions_changed.emit()
    name = stage.context.scan.slice_name(3)
    assert timeline.strip.words(3) == (
        f"{name} (4 of 53) · 13.3\u00a0% changed · The cup shrank to 40 % · corrected by you · "
        "decided: ✓"
    )
    assert "changed" not in timeline.strip.words(9)
    picture = timeline.strip.grab().toImage()
    seen = {
        picture.pixelColor(x, y).name()
        for x in range(picture.width())
        for y in range(picture.height())
    }
    assert {stage.context.theme.attention.lower(), "#009e73", "#56b4e9"} <= seen


def test_a_photograph_has_no_strip_and_no_table_of_one_row(
    timeline: Any, stage: Any, qtbot: Any
) -> None:
    timeline.show_tab("Slices")
    assert timeline.strip.isVisible()
    stage.open((12, 16))
    assert not timeline.strip.isVisible()
    assert not timeline.tabs.isTabVisible(1)
    assert timeline.tabs.currentIndex() == timeline.stack.currentIndex() == 0
    stage.open((5, 12, 16))
    assert timeline.strip.isVisible()
    assert timeline.tabs.isTabVisible(1)


def test_ten_thousand_slices_are_one_strip(timeline: Any, stage: Any) -> None:
    stage.open((10_000, 2, 2))
    rows = {i: SliceRow(i, {"disc": 9}, {"disc": 8}, {"disc": 0.9}) for i in range(10_000)}
    stage.context.figures.rows = rows
    timeline.strip.look_again()
    assert not timeline.strip.grab().isNull()
    assert timeline.strip.slice_at(timeline.strip.width()) == 9_999


# --- steps ---------------------------------------------------------------------------------------


def steps_of(user: Any) -> Any:
    """Open the window; returns the page with curves and slider."""
    user.dock.window().show()
    return user.dock.timeline.stack.widget(0)


def look_at(user: Any, step: int) -> np.ndarray:
    """Move the slider to a step; returns the mask that comes into view."""
    slider = steps_of(user).slider
    slider.setValue(step)
    index = user.context.in_view()
    expected = user.session.run.predict(index, step).label_map

    def there() -> bool:
        layers = [lay for lay in user.viewer.layers if lay.name.endswith(" step")]
        one = len(layers) == 1 and layers[0].visible
        return one and np.array_equal(np.squeeze(layers[0].data), expected)

    user.wait(there)
    return np.asarray(expected)


def shown(user: Any) -> np.ndarray:
    """Return the adapted masks as they lie in the viewer."""
    return np.array(user.session.adapted.layer.data)


def test_looking_back_at_steps(start: Start, volume: Path) -> None:
    user = start(volume, learning_rate=0.05, predict="average")
    steps, context = steps_of(user), user.context
    assert not steps.slider.isEnabled()
    told: list[str] = []
    context.runner.progressed.connect(lambda _done, _total, text: told.append(text))
    user.adapt()
    # Twelve events, six steps.
    assert not any("of 12" in text for text in told)
    assert told[-1] == "axial 6: final mask"
    assert user.dock.timeline.isVisible(), "the timeline opens itself"
    assert steps.slider.isEnabled()
    assert steps.slider.last() == 6
    assert steps.words.said() == "Result of the run"
    names = {layer.name for layer in user.viewer.layers}
    context.go_to(3)
    expected = look_at(user, 2)
    # One slice thick, where that slice lies, and nothing that could be drawn on.
    layer = user.viewer.layers["case_017 step"]
    row, column = np.argwhere(expected)[0]
    where = user.session.adapted.layer.data_to_world((3, row, column))
    assert layer.get_value(where, world=True) == expected[row, column]
    assert not layer.editable
    assert not user.session.adapted.visible
    assert steps.words.said().startswith("After step 2 of 6 · ")
    assert all(plot.marker.value() == 2 for plot in steps.curves.plots)
    assert context.displayed().which == "step"
    # Another slice shows the same step; so does one that was shown before.
    for index in (1, 4, 3):
        context.go_to(index)
        look_at(user, 2)
    # Of many wishes the latest is shown in the end.
    for step in (0, 5, 1, 4):
        steps.slider.setValue(step)
    look_at(user, 4)
    # A look at the result in any way takes the step away.
    user.do("toggle_masks")
    assert not layer.visible, "switched off and kept: made anew it would take long"
    assert {lay.name for lay in user.viewer.layers} == names | {layer.name}
    assert steps.slider.step() == -1
    assert not steps.curves.plots[0].marker.isVisible()
    # A step chosen in the curves moves slice and slider.
    record = user.session.records[3]
    steps.curves.step_chosen.emit(record.slice_index, record.step)
    assert (context.in_view(), steps.slider.step()) == (record.slice_index, record.step)
    user.wait(lambda: layer.visible)
    # The next run has steps of its own.
    user.adapt()
    assert {lay.name for lay in user.viewer.layers} == names


def test_states_are_taken_undone_and_done_again_one_by_one(start: Start, volume: Path) -> None:
    user = start(volume, learning_rate=0.05)
    user.adapt()
    steps, session = steps_of(user), user.session
    flags = dict(session.flags)
    seen = [shown(user)]
    assert not steps.use_button.isEnabled()
    for step in (1, 3):
        steps.slider.setValue(step)
        user.press(steps.use_button)
        user.finish()
        seen.append(shown(user))
        for index in range(6):
            expected = session.run.predict(index, step).label_map
            np.testing.assert_array_equal(user.context.scan.get_mask(seen[-1], index), expected)
        user.wait(lambda step=step: f"step {step}" in user.dock.message.said())
        assert steps.words.said().startswith(f"In use: the state after step {step} of 6")
    assert steps.use_button.text() == "Use the result"
    # Figures and flags are those of the masks in use.
    user.wait(lambda: not user.context.queue.busy)
    areas = {i: int((user.context.scan.get_mask(seen[-1], i) > 0).sum()) for i in range(6)}
    assert {i: row.after["disc"] for i, row in user.context.figures.rows.items()} == areas
    assert user.context.undo.undo_words == "using the state after step 3"
    for expected, step in ((seen[1], 1), (seen[0], None)):
        user.do("undo")
        user.finish()
        np.testing.assert_array_equal(shown(user), expected)
        assert session.taken_step == step
    assert session.flags == flags
    assert session.run.step == session.run.past.last_step
    for expected, step in ((seen[1], 1), (seen[2], 3)):
        user.do("redo")
        user.finish()
        np.testing.assert_array_equal(shown(user), expected)
        assert session.run.step == step
    # Back to the result without Undo.
    user.press(steps.use_button)
    user.finish()
    assert session.taken_step is None
    for index in range(6):
        expected = session.run.predict(index).label_map
        np.testing.assert_array_equal(user.context.scan.get_mask(shown(user), index), expected)


def test_what_was_drawn_survives_a_taken_state_and_its_undo(start: Start, volume: Path) -> None:
    user = start(volume, learning_rate=0.05)
    user.adapt()
    steps, session = steps_of(user), user.session
    user.paint(2, 7, 7, value=2)
    drawn_on, drawing = session.adapted.layer, shown(user)
    result = session.adapted.stack.copy()
    steps.slider.setValue(1)
    user.press(steps.use_button)
    user.finish()
    assert drawn_on in user.viewer.layers
    np.testing.assert_array_equal(drawn_on.data[2], drawing[2])
    assert session.drawn_slices == set()
    user.do("undo")
    user.finish()
    np.testing.assert_array_equal(session.adapted.stack, result)
    np.testing.assert_array_equal(shown(user), drawing)
    assert session.drawn_slices == {2}


def test_a_job_that_is_cancelled_leaves_the_masks_as_they_were(start: Start, volume: Path) -> None:
    user = start(volume, learning_rate=0.05)
    user.adapt()
    steps, before = steps_of(user), shown(user)
    steps.slider.setValue(1)
    steps.use_button.click()
    assert "wait" in user.context.actions.why_not("undo") or not user.context.undo.undo_words
    user.context.runner.cancel()
    user.finish()
    if user.session.taken_step is None:  # it may have been through already
        np.testing.assert_array_equal(shown(user), before)
        assert user.session.run.step == user.session.run.past.last_step
        assert not user.context.undo.undo_words


def test_jumps_move_slice_and_slider_and_say_why(start: Start, volume: Path) -> None:
    user = start(volume, learning_rate=0.05)
    steps, context = steps_of(user), user.context
    said: list[str] = []
    context.said.connect(said.append)
    assert not steps.go_button.isEnabled()
    user.do("largest_change")
    assert said == ["Adapt first."]
    user.adapt()
    lowest = min(user.session.records, key=lambda record: record.cosine)
    steps.go_button.menu().actions()[1].trigger()
    user.settle()
    assert context.in_view() == lowest.slice_index
    assert steps.slider.step() == context.step == lowest.step
    assert f"at step {lowest.step}, axial {lowest.slice_index + 1}." in said[-1]
    user.do("largest_change")
    rows = context.figures.rows.values()
    largest = max(rows, key=lambda row: sum(row.differing().values()))
    assert (context.in_view(), context.step) == (largest.index, None)
    assert said[-1].startswith(f"Largest change: axial {largest.index + 1}. ")
    user.session.flags = {4: (LOST,), 1: ()}
    user.do("first_flag")
    assert context.in_view() == 4
    assert said[-1] == "First flag: axial 5. The cup shrank to 40 %."
    user.session.flags = {}
    user.do("first_flag")
    assert said[-1] == "Nothing is flagged."


def test_pixels_that_differ_follow_from_areas_and_dice() -> None:
    first, second = np.zeros((2, 20, 20), dtype=bool)
    first[2:12, 3:13] = True
    second[5:15, 3:14] = True
    dice = 2 * (first & second).sum() / (first.sum() + second.sum())
    row = SliceRow(0, {"disc": int(first.sum())}, {"disc": int(second.sum())}, {"disc": dice})
    assert row.differing()["disc"] == pytest.approx((first ^ second).sum())


def test_the_largest_change_is_one_of_area_and_not_of_a_speck(stage: Any) -> None:
    speck = {"source_area": {"disc": 0}, "adapted_area": {"disc": 3}, "agreement": {"disc": 0.0}}
    large = {"source_area": {"disc": 9}, "adapted_area": {"disc": 7}, "agreement": {"disc": 0.5}}
    stage.take(stage.record(1, 0, **speck), stage.record(2, 1, **large))
    assert stage.context.figures.most_changed().index == 1


def test_a_hand_edit_changes_the_figures_of_its_slice_and_a_stroke_taken_back_restores_them(
    start: Start, volume: Path
) -> None:
    user = start(volume)
    user.adapt()
    figures, session = user.context.figures, user.session
    before, flags = figures.rows[2], session.flags[2]
    user.paint(2, 3, 3, value=1)
    user.wait(lambda: figures.rows[2] != before)
    disc = user.context.scan.get_mask(shown(user), 2) > 0
    assert figures.rows[2].after["disc"] == disc.sum()
    session.adapted.layer.undo()
    user.wait(lambda: figures.rows[2] == before)
    assert session.flags[2] == flags


def test_a_method_that_learns_nothing_has_no_steps_but_can_be_searched(
    start: Start, volume: Path
) -> None:
    user = start(volume, method="batch-norm")
    user.adapt()
    steps, said = steps_of(user), []
    user.context.said.connect(said.append)
    assert not steps.slider.isEnabled()
    user.wait(lambda: steps.curves.sentence.text() == NO_LEARNING)
    user.do("lowest_similarity")
    assert "no similarity" in said[-1]
    user.do("largest_change")
    assert "hange" in said[-1]


def test_a_reopened_run_has_its_curves_steps_resets_and_the_state_in_use(
    start: Start, volume: Path, tmp_path: Path
) -> None:
    user = start(volume, learning_rate=0.05, mode="every-n", reset_every=2)
    user.context.run_parent = str(tmp_path / "runs")
    user.adapt()
    steps = steps_of(user)
    user.wait(lambda: steps.curves.resets() == [3, 5])
    user.wait(lambda: steps.words.said() == "Result of the run · ┆ 2 resets")
    steps.slider.setValue(1)
    user.press(steps.use_button)
    user.finish()
    masks = user.session.adapted.stack.copy()
    user.session.close_run()
    (folder,) = (tmp_path / "runs").iterdir()
    user.dock.export.open_run(folder)
    user.wait(lambda: user.session is not None and user.session.run is not None)
    user.settle()
    np.testing.assert_array_equal(user.session.adapted.stack, masks)
    assert steps.slider.isEnabled()
    assert steps.slider.last() == 6
    user.wait(lambda: steps.curves.resets() == [3, 5])
    assert steps.words.said().startswith("In use: the state after step 1 of 6")
    assert steps.use_button.text() == "Use the result"
    look_at(user, 4)


def test_the_timeline_can_be_closed_comes_with_the_next_run_and_remembers_its_height(
    start: Start, volume: Path
) -> None:
    user = start(volume)
    user.dock.window().show()
    user.adapt()
    timeline = user.dock.timeline
    dock = timeline.parentWidget()
    window = timeline.window()
    window.resizeDocks([dock], [260], Qt.Orientation.Vertical)
    user.wait(lambda: user.context.store.get("timeline_height", 0) == timeline.height())
    height = timeline.height()
    dock.title.close_button.click()
    user.settle()
    assert not timeline.isVisible()
    user.adapt()
    assert timeline.isVisible()
    user.wait(lambda: abs(timeline.height() - height) <= 2)
