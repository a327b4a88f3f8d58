"""A few reviewed slices decide: proposed, called right, weighed, used for the others, undone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt

from napari_grata.adaptation import reopen
from napari_grata.adaptation.settings import preset
from napari_grata.review.choice_record import RECORD_FILE
from napari_grata.review.choosing import Estimate, Row, Rule, Weighing
from napari_grata.review.report import report_cases, write_report
from napari_grata.scans import scan_from_array
from napari_grata.scans.files import read_json
from napari_grata.widgets.state import Step
from napari_grata.widgets.steps import StepsSection
from napari_grata.widgets.weigh_picture import WeighPicture, points, ticks
from tools.generators.models import small_card

Start = Callable[..., Any]
BETTER = "as-published"


def in_use(user: Any) -> str:
    """Return what the curves say of the masks that are shown."""
    return str(user.dock.timeline.findChild(StepsSection).words.said())


def told(session: Any) -> list[list[int]]:
    """Return the slices on which a run's folder says that masks were chosen."""
    saved = reopen(session.run.folder, session.scan)
    for index, mask in saved.adapted_masks.items():
        assert np.array_equal(mask, session.scan.get_mask(session.adapted.stack, index))
    saved.close()
    return [one["used_on"] for one in saved.chosen]


class Reviewer:
    """A user who has adapted, and knows how it should be: as one of the candidates says."""

    def __init__(self, user: Any) -> None:
        self.user, self.weigh, self.correct = user, user.dock.weigh, user.dock.correct
        assert self.weigh.teach.isChecked()
        self.weigh.teach.setChecked(False)  # takes its time
        user.adapt()
        user.decisions_are_known()

    @property
    def found(self) -> Any:
        return self.weigh.found(self.user.session)

    def propose(self) -> list[int]:
        self.user.press(self.weigh.propose_button)
        self.user.finish()
        assert not self.user.context.problem, self.user.context.problem
        return list(self.found.proposed)

    def candidate(self, name: str) -> Any:
        return next(one for one in self.found.pool.candidates if one.name == name)

    def draw(self, index: int, mask: np.ndarray) -> None:
        """Draw a whole mask."""
        user = self.user
        user.context.go_to(index)
        layer = user.session.adapted.layer
        data = np.array(layer.data)
        user.context.scan.put_mask(data, index, mask)
        layer.data = data
        user.settle()

    def confirm(self, index: int) -> None:
        self.user.context.go_to(index)
        self.user.settle()
        self.user.press(self.correct.right)
        assert index in self.user.context.reviewed.of(self.user.session)

    def review_as(self, name: str, slices: list[int]) -> None:
        for index in slices:
            self.draw(index, self.candidate(name).masks[index])
            self.confirm(index)

    def press(self, button: Any) -> None:
        self.user.press(button)
        self.user.finish()
        assert not self.user.context.problem, self.user.context.problem

    def shown(self) -> dict[int, np.ndarray]:
        session = self.user.session
        stack = session.adapted.as_shown()
        return {i: session.scan.get_mask(stack, i) for i in sorted(session.adapted_slices)}


@pytest.fixture
def review(start: Start, volume: Path) -> Callable[..., Reviewer]:
    """Return a function that opens an adapted volume of which the user will review slices."""

    def make(**changes: Any) -> Reviewer:
        return Reviewer(start(volume, **changes))

    return make


def test_slices_are_proposed_and_nothing_of_the_users_is_touched(
    review: Callable[..., Reviewer], qtbot: Any
) -> None:
    one = review()
    user, weigh = one.user, one.weigh
    assert user.dock.steps[Step.CORRECT].is_open
    assert not weigh.fold.isExpanded()
    user.paint(2, 5, 5, value=2)
    before, run = one.shown(), user.session.run
    weigh.propose()
    assert user.dock.steps[Step.CORRECT].is_open
    user.finish()
    proposed = one.found.proposed
    assert len(proposed) == 3
    assert [weigh.list.item(n).text()[3:] for n in range(3)] == [
        user.context.scan.slice_name(index) for index in proposed
    ]
    assert user.context.in_view() == proposed[0]
    weigh.list.itemClicked.emit(weigh.list.item(2))
    assert user.context.in_view() == proposed[2]
    after = one.shown()
    assert all(np.array_equal(before[index], after[index]) for index in before)
    assert user.session.run is run
    assert user.session.drawn_slices == {2}
    # What was painted is in no candidate: each began with the source model and saw no label.
    for candidate in one.found.pool.candidates:
        assert candidate.masks[2][5, 5] == 0
        assert not candidate.taught_by
    assert all(not each.corrections.slices for each in one.found.pool.runs.runs.values())


def test_a_slice_called_right_is_so_until_it_is_drawn_on(review: Callable[..., Reviewer]) -> None:
    one = review()
    user = one.user
    user.context.go_to(1)
    user.context.show_mode("source")
    user.settle()
    assert not one.correct.right.isEnabled()  # the mask before is in view, not what is called right
    user.context.show_mode("adapted")
    user.settle()
    one.confirm(1)
    user.context.go_to(4)
    user.settle()
    assert 1 in user.context.reviewed.of(user.session)
    assert "at least 2" in one.weigh.weigh_button.toolTip()
    # Another run: what was called right is shown, and is right, all the same.
    user.paint(3, 20, 20, value=2)
    one.confirm(3)
    right = one.shown()
    user.adapt()
    assert user.context.reviewed.of(user.session).keys() == {1, 3}
    assert np.array_equal(one.shown()[3], right[3])
    assert 3 in user.session.drawn_slices
    assert user.context.save_drawings() == ""
    user.paint(3, 5, 5)
    user.paint(1, 5, 5, value=2)
    assert not user.context.reviewed.of(user.session)
    assert not one.correct.right.isChecked()
    assert user.context.scan.slice_name(1) in user.dock.hint.said()


def test_what_is_called_right_is_there_again_after_the_program_was_closed(
    start: Start, volume: Path
) -> None:
    one = Reviewer(start(volume))
    user = one.user
    drawn = np.zeros_like(one.shown()[3])
    drawn[10:30, 12:36] = 1
    one.draw(3, drawn)
    right = one.shown()
    for index in (0, 3, 5):
        one.confirm(index)
    user.press(one.correct.right)  # 5: no longer
    user.viewer.close()

    one = Reviewer(start(volume))  # whose masks after are others
    user, reviewed = one.user, one.user.context.reviewed
    assert reviewed.of(user.session).keys() == {0, 3}
    for index in (0, 3):
        assert np.array_equal(one.shown()[index], right[index])
    assert [one.weigh.list.item(n).text()[0] for n in range(2)] == ["✓", "✓"]
    # Of a run on fewer slices the others are not shown, and not lost.
    user.context.slices_text = "1-3"
    user.adapt()
    assert reviewed.of(user.session).keys() == {0}
    user.context.slices_text = "all"
    user.adapt()
    assert reviewed.of(user.session).keys() == {0, 3}
    one.press(one.weigh.weigh_button)
    assert one.found.weighing.slices == (0, 3)
    # What cannot be written is said, and waits for Retry.
    caselist, key = user.context.decision_list
    store = caselist.folder / "list.sqlite"
    store.rename(store.with_suffix(".away"))
    store.mkdir()
    one.confirm(4)
    assert "not on the disk" in user.decision()
    store.rmdir()
    store.with_suffix(".away").rename(store)
    user.press(user.dock.decide.retry_button)
    kept = caselist.work(key).reviewed(user.session.card.name, user.context.scan)
    assert kept.keys() == {0, 3, 4}


def test_what_is_better_is_used_elsewhere_and_one_undo_takes_it_back(
    review: Callable[..., Reviewer], tmp_path: Path
) -> None:
    one = review()
    user, weigh, session = one.user, one.weigh, one.user.session
    user.context.run_parent = str(tmp_path / "runs")
    user.context.choose_settings("careful", preset("careful").settings)
    user.adapt()
    one.propose()
    reviewed = [0, 3, 5]
    one.review_as(BETTER, reviewed)
    user.paint(1, 5, 5, value=2)
    user.context.go_to(2)
    user.do("accept")
    before = one.shown()
    assert not weigh.use_button.isEnabled()
    one.press(weigh.weigh_button)
    choice = one.found.choice
    assert choice.changes
    assert weigh.words.said().startswith("Recommended. disc")
    now = one.shown()
    assert all(np.array_equal(now[i], before[i]) for i in now)  # nothing without a click
    kept = read_json(session.run.folder / RECORD_FILE)
    assert kept["weighing"]["slices"] == reviewed
    assert told(session) == []

    one.press(weigh.use_button)
    after = one.shown()
    assert [i for i in after if not np.array_equal(after[i], before[i])] == [4]
    pick = next(pick for pick in choice.picks if pick.structure == "disc")
    disc = one.candidate(pick.candidate).masks[4] > 0
    assert np.array_equal(after[4] > 0, disc)
    assert user.context.decision_marks == {2: "✓"}  # its mask is the one decided on
    assert told(session) == [[4]]
    saved = reopen(session.run.folder, user.context.scan)
    assert np.array_equal(saved.adapted_masks[4], after[4])
    saved.close()
    assert "In use" in weigh.use_button.toolTip()
    assert in_use(user).startswith("In use: chosen on 3 reviewed slices")

    user.do("undo")
    user.finish()
    again = one.shown()
    assert all(np.array_equal(again[i], before[i]) for i in again)
    assert told(session) == []
    saved = reopen(session.run.folder, user.context.scan)
    assert saved.taken is None
    assert "chosen" not in in_use(user)
    assert np.array_equal(saved.adapted_masks[4], before[4])
    saved.close()
    user.do("redo")
    user.finish()
    assert np.array_equal(one.shown()[4], after[4])

    # What is painted since is left alone, whatever becomes of the mask below it.
    user.paint(4, 5, 5, value=2)
    painted = one.shown()
    user.do("undo")
    user.finish()
    again = one.shown()
    assert np.array_equal(again[4], painted[4])
    assert 4 in session.drawn_slices
    assert np.array_equal(session.scan.get_mask(session.adapted.stack, 4), before[4])
    assert user.context.save_drawings() == ""


def test_a_copy_learns_from_what_is_called_right_and_is_weighed_with_the_others(
    review: Callable[..., Reviewer],
) -> None:
    one = review()
    one.propose()
    one.review_as(BETTER, [0, 3])
    one.weigh.teach.setChecked(True)
    one.press(one.weigh.weigh_button)
    taught = one.candidate("taught")
    assert taught.taught_by == {0, 3}
    assert "taught" in {row.candidate for row in one.found.weighing.rows}
    one.press(one.weigh.weigh_button)
    assert one.candidate("taught") is taught  # nothing changed: not taught again
    one.review_as(BETTER, [5])
    one.press(one.weigh.weigh_button)
    assert one.candidate("taught").taught_by == {0, 3, 5}
    one.weigh.teach.setChecked(False)
    one.press(one.weigh.weigh_button)
    assert "taught" not in {row.candidate for row in one.found.weighing.rows}


def test_what_is_said_of_the_masks_in_use_is_true_whatever_comes_after(
    review: Callable[..., Reviewer], tmp_path: Path
) -> None:
    one = review()
    user, weigh, session = one.user, one.weigh, one.user.session
    user.context.run_parent = str(tmp_path / "runs")
    user.context.choose_settings("careful", preset("careful").settings)
    user.adapt()
    own = one.shown()
    one.propose()
    # Not one of which a loss is expected: it has to win again on slices that it gains nothing on.
    one.review_as("learn-from-stack", [0, 3, 5])
    one.press(weigh.weigh_button)
    one.press(weigh.use_button)
    chosen = one.shown()
    # Weighed once more, and two more slices called right: the first choice is still in use.
    for index in (1, 2):
        one.confirm(index)
    one.press(weigh.weigh_button)
    assert told(session) == [[1, 2, 4]]
    assert in_use(user).startswith("In use: chosen on 3 reviewed slices")
    assert not weigh.words.said().startswith("In use")
    one.press(weigh.use_button)
    assert told(session) == [[1, 2], [4]]
    assert in_use(user).startswith("In use: chosen on 5 reviewed slices")
    # Another state of the model instead: nothing of the choices is in use any more.
    steps = user.dock.timeline.findChild(StepsSection)
    user.context.look_back(2)
    one.press(steps.use_button)
    assert told(session) == []
    assert "chosen" not in in_use(user)
    assert not weigh.words.said().startswith("In use")
    for _ in range(2):
        user.do("undo")
        user.finish()
    assert told(session) == [[1, 2, 4]]
    assert all(np.array_equal(one.shown()[i], chosen[i]) for i in chosen)
    # And back to the run's own masks, by the slider's right end: also after it was reopened.
    assert steps.use_button.text() == "Use the result"
    one.press(steps.use_button)
    assert told(session) == []
    assert all(np.array_equal(one.shown()[i], own[i]) for i in (1, 2, 4))


@pytest.fixture
def listed(start: Start, volume: Path, tmp_path: Path) -> Callable[..., Reviewer]:
    """Return a function that opens copies of a volume as a list and adapts the first."""

    def make(*names: str) -> Reviewer:
        folder = tmp_path / "list"
        folder.mkdir()
        for name in names:
            shutil.copy(volume, folder / f"{name}.nii.gz")
        user = start()
        user.context.choose_settings("careful", preset("careful").settings)
        user.dock.cases.open_list([str(folder)])
        come_to(user, "case-0001")
        return Reviewer(user)

    return make


def come_to(user: Any, key: str) -> None:
    cases = user.dock.cases
    user.wait(lambda: cases.current.key == key and cases._wanted is None, 30)
    user.wait(lambda: user.dock.decide.decisions.place is not None, 30)
    user.settle()


def rest(user: Any) -> None:
    """Wait until nothing runs in the background any more."""
    cases = user.dock.cases
    user.wait(lambda: not (cases.batch.running or cases.batch.stopping), 60)
    for queue in (cases.queue, user.context.runner.saved_runs, cases.prefetch.queue):
        user.wait(lambda queue=queue: not queue.busy, 30)
    user.settle()


def test_a_choice_comes_back_with_the_case(listed: Callable[..., Reviewer], tmp_path: Path) -> None:
    one = listed("a", "b")
    user = one.user
    cases = user.dock.cases
    one.propose()
    one.review_as(BETTER, [0, 3, 5])
    one.press(one.weigh.weigh_button)
    one.press(one.weigh.use_button)
    chosen = one.shown()
    user.do("next_case")
    come_to(user, "case-0002")
    assert one.weigh.picture.weighing is None
    user.do("previous_case")
    come_to(user, "case-0001")
    user.wait(lambda: user.session is not None and user.session.drawn_slices, 30)
    back = one.shown()
    assert all(np.array_equal(back[index], chosen[index]) for index in chosen)
    assert set(user.context.reviewed.of(user.session)) == {0, 3, 5}
    user.wait(lambda: in_use(user).startswith("In use: chosen on 3 reviewed slices"), 30)
    told = next(one for one in report_cases(cases.caselist) if one.code == "case-0001")
    page = write_report(tmp_path / "report.html", [told]).read_text(encoding="utf-8")
    assert "chosen on 3 slices that a person had reviewed: Recommended. disc" in page
    rest(user)


def test_a_choice_is_used_on_the_other_cases_but_not_under_the_user_s_eyes(
    listed: Callable[..., Reviewer],
) -> None:
    one = listed("a", "b", "c")
    user, cases = one.user, one.user.dock.cases
    assert not one.weigh.carry_button.isEnabled()
    one.propose()
    one.review_as(BETTER, [0, 3, 5])
    one.press(one.weigh.weigh_button)
    user.do("next_case")
    come_to(user, "case-0002")
    user.adapt()
    rest(user)
    user.do("previous_case")
    come_to(user, "case-0001")
    user.wait(one.weigh.weigh_button.isEnabled, 30)
    one.press(one.weigh.weigh_button)
    cases.batch.step_aside(True)  # so that the next case is in view before its turn comes
    user.press(one.weigh.carry_button)
    assert "other cases" in user.session.note
    user.do("next_case")
    come_to(user, "case-0002")
    cases.batch.step_aside(False)
    rest(user)
    user.wait(lambda: one.weigh.here_button.isVisibleTo(one.weigh), 30)

    def chosen(key: str) -> list[str]:
        with closing(reopen(cases.caselist.work(key).run_folder)) as found:
            return [one["case"] for one in found.chosen]

    assert chosen("case-0003") == ["case 1"]
    assert chosen("case-0002") == []
    before = one.shown()
    user.wait(one.weigh.here_button.isEnabled, 30)
    one.press(one.weigh.here_button)
    rest(user)
    assert chosen("case-0002") == ["case 1"]
    after = one.shown()
    assert any(not np.array_equal(after[i], before[i]) for i in after)
    assert in_use(user) == "In use: chosen on 3 reviewed slices of case 1"
    user.do("undo")
    user.finish()
    rest(user)
    again = one.shown()
    assert all(np.array_equal(again[i], before[i]) for i in again)
    user.do("next_case")
    come_to(user, "case-0003")
    user.wait(lambda: one.weigh.words.said().startswith("The masks after were chosen on 3"), 30)
    assert "3 reviewed slices of case 1" in user.dock.message.said()
    user.do("previous_case")
    come_to(user, "case-0002")
    user.do("undo")  # of the list
    rest(user)
    assert chosen("case-0003") == []


def test_where_nothing_is_better_the_mask_before_stays_and_it_is_said(
    review: Callable[..., Reviewer],
) -> None:
    one = review()
    one.propose()
    one.review_as("source", [1, 3, 4])
    one.press(one.weigh.weigh_button)
    assert not one.found.choice.changes
    assert "not show that anything is better" in one.weigh.words.said()
    assert not one.weigh.use_button.isEnabled()
    assert "Nothing is recommended" in one.weigh.use_button.toolTip()
    # Another stroke, and what was weighed counts no more.
    one.user.paint(3, 5, 5, value=2)
    assert "weigh again" in one.weigh.words.said()


def test_a_decided_case_is_not_touched(review: Callable[..., Reviewer]) -> None:
    one = review()
    user = one.user
    one.propose()
    one.review_as(BETTER, [0, 3, 5])
    one.press(one.weigh.weigh_button)
    assert one.weigh.use_button.isEnabled()
    one.weigh.count.setValue(8)
    user.dock.decide.scope.setCurrentIndex(1)
    user.do("accept")
    for button in (one.weigh.use_button, one.weigh.propose_button):
        assert not button.isEnabled()
        assert "decided" in button.toolTip()


def test_cancelled_or_left_nothing_lands_elsewhere(
    review: Callable[..., Reviewer], volume: Path
) -> None:
    one = review()
    user, first = one.user, one.user.session
    before = one.shown()
    one.weigh.propose()
    user.context.runner.cancel()
    user.finish()
    assert one.found.pool is None
    assert not one.found.proposed
    assert one.weigh.propose_button.isEnabled()
    one.weigh.propose()
    user.viewer.add_image(np.zeros((4, 32, 32), np.float32), name="another")
    user.settle()
    assert user.session is not first
    user.finish()
    assert len(one.weigh.found(first).proposed) == 3
    assert user.session is None or not one.weigh.found(user.session).proposed
    shown = first.adapted.as_shown()
    assert all(np.array_equal(first.scan.get_mask(shown, i), before[i]) for i in before)


def test_a_run_that_learned_from_corrections_is_left_out(review: Callable[..., Reviewer]) -> None:
    one = review()
    user = one.user
    user.paint(2, 20, 20, value=2)
    user.press(one.correct.teach_button)
    user.finish()
    assert user.session.run.corrections.slices
    one.propose()
    names = [candidate.name for candidate in one.found.pool.candidates]
    assert "at-hand" not in names
    assert "source" in names
    one.review_as(BETTER, [0, 3, 5])
    one.press(one.weigh.weigh_button)
    assert "learned from your corrections" in one.weigh.words.said()
    one.press(one.weigh.use_button)
    # What was drawn stays, though it is a part of the run's own masks by now.
    assert [one["used_on"] for one in user.session.run.chosen] == [[1, 4]]
    assert one.shown()[2][20, 20] == 2


def test_photographs_of_a_list_are_weighed_together_as_one_stack(
    start: Start, photograph: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "eyes"
    folder.mkdir()
    for number in range(3):
        shutil.copy(photograph, folder / f"eye {number}.png")
    user = start()
    cases = user.dock.cases
    cases.open_list([str(folder)])
    user.wait(lambda: cases.current.key == "case-0001" and cases.current.scan is not None)
    user.decisions_are_known()
    user.adapt()
    weigh = user.dock.weigh
    assert not weigh._ways.isVisibleTo(weigh)
    assert "Opened as one stack" in weigh.words.said()
    user.press(weigh.together_button)
    user.wait(lambda: user.context.scan is not None and user.context.scan.n_slices == 3)
    user.settle()
    user.adapt()
    assert weigh._ways.isVisibleTo(weigh)
    assert not weigh.together_button.isVisibleTo(weigh)
    assert weigh.propose_button.isEnabled(), weigh.propose_button.toolTip()
    # The list is still there, with its case as it was: what is decided now is not decided on that.
    caselist, context = cases.caselist, user.context
    assert len(caselist.cases) == 3
    assert caselist.summary("case-0001").adapted
    assert context.case is None
    user.wait(lambda: user.dock.decide.decisions.place is not None)
    assert user.dock.decide.decisions.place.alone
    user.do("accept")
    assert not caselist.decisions("case-0001")
    assert user.dock.decide.decisions.place.current()
    context.choose_layer(cases.current.layer)
    user.settle()
    assert context.case is caselist.case("case-0001")
    user.wait(lambda: user.dock.decide.decisions.place is not None)
    assert not user.dock.decide.decisions.place.alone


def test_the_picture_says_what_lies_under_the_mouse_and_a_click_goes_there(
    review: Callable[..., Reviewer], qtbot: Any
) -> None:
    one = review()
    user, picture = one.user, one.weigh.picture
    one.propose()
    one.review_as(BETTER, [0, 3, 5])
    one.press(one.weigh.weigh_button)
    tabs = user.dock.timeline.tabs
    assert tabs.tabText(tabs.currentIndex()) == "Weighing"
    images = []
    for theme in ("dark", "light"):
        user.viewer.theme = theme
        picture.resize(640, 160)
        images.append(picture.grab().toImage())
    assert images[0] != images[1]
    dots = [spot for spot in picture.spots if spot[1] is not None]
    assert {slice_index for _, slice_index, _ in dots} == {0, 3, 5}
    place, index, words = next(spot for spot in dots if spot[1] == 3 and "Careful" in spot[2])
    assert user.context.scan.slice_name(3) in words
    assert "over the mask before" in words
    user.context.go_to(1)
    qtbot.mouseClick(
        picture,
        Qt.MouseButton.LeftButton,
        pos=QPoint(int(place.center().x()), int(place.center().y())),
    )
    assert user.context.in_view() == index
    rows = [words for _, index, words in picture.spots if index is None]
    assert any("expected on the other slices" in words for words in rows)


def test_axis_and_figures() -> None:
    assert ticks(-4.2, 4.2, 5) == [-4, -2, 0, 2, 4]
    assert 0 in ticks(-130, 20, 4)
    assert points(0.0141) == "+1.4"
    assert points(-0.0141) == "−1.4"
    assert points(-0.0001) == "0.0"


def test_of_many_structures_as_many_are_drawn_as_there_is_room_for(qtbot: Any, stage: Any) -> None:
    names = tuple(f"part {n}" for n in range(20))
    rows = [
        Row(
            which,
            which.title(),
            name,
            0.0,
            {},
            {1: 0.01 * n * move},
            Estimate(0, 0, 0),
            False,
            True,
        )
        for n, name in enumerate(names)
        for which, move in (("source", 0), ("other", 1))
    ]
    picture = WeighPicture(stage.context)
    qtbot.addWidget(picture)
    scan = scan_from_array(np.arange(192.0).reshape(3, 8, 8), name="v")
    weighing = Weighing((1,), 2, names, tuple(rows), Rule())
    picture.show_weighing(weighing, None, small_card(), scan)
    for width, count in ((900, 7), (420, 2)):
        picture.resize(width, 120)
        picture.grab()
        words = [text for _, index, text in picture.spots if index is None]
        drawn = {text.split(",")[0] for text in words if ", Other: " in text}
        assert drawn == {*(f"part {n}" for n in range(19, 19 - count, -1)), "mean of 20"}
        assert any(text.startswith(f"{count} of 20 structures are drawn") for text in words)
