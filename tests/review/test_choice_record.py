"""Runs become candidates, reviewed masks are read, and what was chosen is kept and drawn."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_grata.adaptation import AdaptationRun, Corrections, Settings, preset, reopen
from napari_grata.adaptation.corrections import CorrectionsError
from napari_grata.adaptation.settings import Preset, teaching_settings
from napari_grata.review.candidates import Candidate, CandidateRuns, candidate_of_run
from napari_grata.review.choice_record import record_choice, use_choice
from napari_grata.review.choosing import weigh
from napari_grata.review.compare import TruthError, flags_of_run, reviewed_masks
from napari_grata.review.figures import gains
from napari_grata.scans import Scan, open_scan, scan_from_array, write_mask
from napari_grata.segmenters import Card, Segmenter
from tools.generators.models import Small, small_card

LEARNS = Preset(
    "learns", "Learns", "", Settings(learning_rate=0.02, predict="final", six_views=False)
)


@pytest.fixture
def segmenter() -> Segmenter:
    return Segmenter(small_card(), Small(), "cpu")


@pytest.fixture
def scan() -> Scan:
    data = np.random.default_rng(0).random((6, 40, 48)).astype(np.float32)
    return scan_from_array(data, name="Miller^Anna", spacing=(2.0, 1.0, 1.0))


def test_runs_become_candidates_the_source_first(segmenter, scan, tmp_path: Path) -> None:
    runs = CandidateRuns(segmenter, scan, ["batch-norm", LEARNS], folder=tmp_path)
    told = list(runs.records())
    assert len(told) == runs.total
    assert [one.name for one in runs.candidates] == ["source", "batch-norm", "learns"]
    single = AdaptationRun(segmenter, scan, LEARNS.settings)
    list(single.records())
    for index, mask in single.adapted_masks.items():
        np.testing.assert_array_equal(runs.candidates[2].masks[index], mask)
        np.testing.assert_array_equal(runs.candidates[0].masks[index], single.source_masks[index])
        # Masks are what the probabilities say, so that thresholds start from them.
        found = runs.candidates[2].probabilities(index)
        np.testing.assert_array_equal(segmenter.label_map(found), mask)
    first, middle = (candidate_of_run(single, f"at {n}", "", step=n) for n in (0, 3))
    assert any((first.masks[i] != middle.masks[i]).any() for i in range(6))
    assert {path.name for path in tmp_path.iterdir()} == {"source", "batch-norm", "learns"}
    single.close()
    runs.close()


def test_a_stack_taught_model_is_weighed_as_it_was_after_fewer_passes(segmenter, scan) -> None:
    stack = preset("learn-from-stack").settings.but(passes=3, learning_rate=0.02, blend=1)
    runs = CandidateRuns(segmenter, scan, [Preset("stack", "Stack", "", stack)], seed=4)
    assert len(list(runs.records())) == runs.total
    assert list(runs.settings) == ["source", "stack-1", "stack-2", "stack"]
    second, last = runs.candidates[2:]
    assert any((second.masks[i] != last.masks[i]).any() for i in range(6))
    assert (second.name, second.title) == ("stack-2", "Stack, 2 of 3 passes")
    alone = AdaptationRun(segmenter, scan, runs.settings["stack-2"])
    list(alone.records())
    for index, mask in alone.adapted_masks.items():
        np.testing.assert_array_equal(second.masks[index], mask)
    found = second.probabilities(3)
    np.testing.assert_array_equal(segmenter.label_map(found), second.masks[3])
    alone.close()
    runs.close()


def test_copies_learn_from_reviewed_slices_and_none_is_weighed_on_what_it_saw(
    segmenter, scan
) -> None:
    runs = CandidateRuns(segmenter, scan, [])
    list(runs.records())
    fast = teaching_settings(preset("learn-from-stack").settings).but(learning_rate=0.02)
    wanted = {i: (scan.read_slice(i) > 0.3).astype(np.uint8) for i in range(6)}

    def taught(**changes: np.ndarray) -> Candidate:
        shown = {i: changes.get(f"of_{i}", wanted[i]) for i in (0, 2, 5)}
        parts = list(runs.teach(shown, fast))
        assert [done for done, _ in parts] == list(range(1, parts[-1][1] + 1))
        assert [one.name for one in runs.candidates] == ["source", "taught"]
        return runs.candidates[-1]

    found = taught()
    assert found.taught_by == found.held_out.keys() == {0, 2, 5}
    source = runs.candidates[0]
    for index in (1, 3, 4):
        gained = [
            np.mean((m[index] > 0) == (wanted[index] > 0)) for m in (found.masks, source.masks)
        ]
        assert gained[0] > gained[1]
    other = taught(of_0=np.zeros((40, 48), np.uint8))
    np.testing.assert_array_equal(other.fair_mask(0), found.fair_mask(0))
    assert (other.fair_mask(2) != found.fair_mask(2)).any()
    assert (other.masks[3] != found.masks[3]).any()
    again = taught()
    for index, mask in found.masks.items():
        np.testing.assert_array_equal(again.masks[index], mask)
    with pytest.raises(CorrectionsError, match="Slice 10 was not segmented"):
        list(runs.teach({0: wanted[0], 9: wanted[1]}, fast))
    *_, weighing = weigh(segmenter, runs.candidates, {i: wanted[i] for i in (0, 2, 5)}, stack=True)
    row = next(r for r in weighing.rows if (r.candidate, r.structure) == ("taught", "disc"))
    for index in (0, 2, 5):
        mine = found.held_out[index] > 0
        both = np.logical_and(mine, wanted[index]).sum()
        assert row.dice[index] == pytest.approx(2 * both / (mine.sum() + wanted[index].sum()))
    runs.close()


def test_a_run_with_corrections_is_not_weighed_against_them(segmenter, scan) -> None:
    before = np.zeros((40, 48), np.uint8)
    drawn = before.copy()
    drawn[10:20, 10:20] = 1
    corrections = Corrections.of_slice(2, drawn, before)
    run = AdaptationRun(segmenter, scan, preset("source").settings, corrections=corrections)
    list(run.records())
    with pytest.raises(ValueError, match="held_out"):
        candidate_of_run(run, "taught", "Taught")
    run.close()


def test_reviewed_masks_go_to_the_weighing_and_nowhere_else(segmenter, scan) -> None:
    """Poisoned labels change what is chosen, and no bit of what is chosen from."""
    masks, weighings = [], []
    for poisoned in (False, True):
        runs = CandidateRuns(segmenter, scan, [LEARNS])
        list(runs.records())
        right = runs.candidates[1].masks
        reviewed = {i: np.array(right[i]) for i in (0, 2, 5)}
        if poisoned:
            reviewed = {i: (2 - mask).astype(np.uint8) for i, mask in reviewed.items()}
        weighings += [*weigh(segmenter, runs.candidates, reviewed)][-1:]
        masks.append([one.masks for one in runs.candidates])
        runs.close()
    for clean, other in zip(*masks, strict=True):
        for index in range(6):
            np.testing.assert_array_equal(clean[index], other[index])
    assert weighings[0].rows != weighings[1].rows


def test_a_record_holds_all_that_was_weighed(segmenter, scan, tmp_path: Path) -> None:
    runs = CandidateRuns(segmenter, scan, [LEARNS])
    list(runs.records())
    reviewed = {i: runs.candidates[1].masks[i] for i in (0, 2, 5)}
    *_, weighing = weigh(segmenter, runs.candidates, reviewed, stack=True)
    record = record_choice(segmenter.card, scan, weighing, {"learns": LEARNS.settings})
    assert record.chosen == record.recommended
    kept = json.loads(record.write(tmp_path / "choice.json").read_text())
    assert kept["chosen"] == kept["recommended"]
    assert kept["weighing"]["rule"]["level"] == weighing.rule.level
    gains_kept = [row["gains"] for row in kept["weighing"]["rows"]]
    assert gains_kept == [{str(i): g for i, g in row.gains.items()} for row in weighing.rows]
    with record.write_csv(tmp_path / "choice.csv").open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(row.dice) for row in weighing.rows)
    assert {row["chosen"] for row in rows} == {"yes", "no"}
    picture = gains(weighing, record.chosen, tmp_path / "choice.png")
    with Image.open(picture) as drawn:
        pixels = np.asarray(drawn.convert("RGB")).astype(int)
    blue = (np.abs(pixels - (0, 114, 178)).max(-1) < 30).sum()
    assert blue > 200  # what was chosen
    for path in tmp_path.iterdir():
        assert b"Miller" not in path.read_bytes()
    runs.close()


def test_masks_in_use_and_how_they_were_chosen_are_kept_as_one(
    segmenter, scan, tmp_path: Path
) -> None:
    runs = CandidateRuns(segmenter, scan, [LEARNS], folder=tmp_path)
    list(runs.records())
    *_, weighing = weigh(
        segmenter, runs.candidates, {i: runs.candidates[1].masks[i] for i in (0, 5)}
    )
    record = record_choice(segmenter.card, scan, weighing, {})
    run = list(runs.runs.values())[1]
    own, empty = dict(run.adapted_masks), np.zeros((40, 48), np.uint8)
    use_choice(run, record.told, {1: empty, 2: empty, 4: empty})
    told = use_choice(run, record.told, {2: empty + 1})
    both = {1: empty, 2: empty + 1, 4: empty}

    def kept() -> list[list[int]]:
        saved = reopen(run.folder, scan)
        for index, mask in saved.adapted_masks.items():
            shown = run.adapted_masks[index]
            np.testing.assert_array_equal(mask, shown)
            chosen = any(index in one["used_on"] for one in saved.chosen)
            np.testing.assert_array_equal(mask, both[index] if chosen else own[index])
        assert saved.info["taken"] is None
        saved.close()
        return [one["used_on"] for one in saved.chosen]

    assert kept() == [[1, 4], [2]]
    assert told["reviewed"] == [0, 5]
    # Flags, too, are of the mask in use, not of the one that the run made there.
    assert {flag.code for flag in flags_of_run(reopen(run.folder, scan))[1]} >= {"disc-empty"}
    run.close()
    run = reopen(run.folder, scan).run(segmenter)
    run.choose({1: empty}, [{**told, "used_on": [1]}])
    assert kept() == [[1]]
    # What takes the run elsewhere, or has it go on, leaves nothing that was chosen behind.
    run.rollback(3)
    assert not reopen(run.folder, scan).chosen
    run.choose({1: empty}, [{**told, "used_on": [1]}])
    run.take(3, {i: own[i] for i in range(6)})
    assert not reopen(run.folder, scan).chosen
    run.choose({1: empty}, [{**told, "used_on": [1]}])
    list(run.records())
    assert kept() == []
    run.close()
    runs.close()


# -- masks that a reviewer made --------------------------------------------------------------


@pytest.fixture
def photographs(tmp_path: Path) -> Scan:
    folder = tmp_path / "centre"
    folder.mkdir()
    for name, side in (("a", 40), ("b", 44), ("c", 48)):
        pixels = np.random.default_rng(side).integers(0, 255, (side, side, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return open_scan(folder)


def disc(side: int, outer: int = 1, inner: int = 2, ground: int = 0) -> np.ndarray:
    distance = np.hypot(*(np.mgrid[:side, :side] - side / 2))
    mask = np.where(distance < 15, outer, ground)
    return np.where(distance < 7, inner, mask).astype(np.uint8)


def test_of_photographs_those_with_a_mask_were_reviewed(photographs, eye: Card, tmp_path) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    Image.fromarray(disc(40)).save(folder / "a.png")
    Image.fromarray(disc(48, 128, 0, 255)).save(folder / "case-0003.png")
    found, notes = reviewed_masks(folder, photographs, eye)
    assert list(found) == [0, 2]
    np.testing.assert_array_equal(found[0], disc(40))
    np.testing.assert_array_equal(found[2], disc(48))
    assert len(notes) == 1
    assert list(reviewed_masks(folder, photographs, eye, [2])[0]) == [2]
    with pytest.raises(TruthError, match="photograph 2"):
        reviewed_masks(folder, photographs, eye, [1])
    Image.fromarray(disc(40)).save(folder / "case-0001.png")
    with pytest.raises(TruthError, match="two masks"):
        reviewed_masks(folder, photographs, eye)
    with pytest.raises(TruthError, match="no folder"):
        reviewed_masks(folder / "a.png", photographs, eye)


def test_of_a_stack_the_reviewed_slices_are_named(scan, eye: Card, tmp_path: Path) -> None:
    stack = np.stack([np.pad(disc(40), ((0, 0), (0, 8)))] * 6)
    path = tmp_path / "mask.nii.gz"
    write_mask(stack, scan, path)
    with pytest.raises(TruthError, match="Which slices"):
        reviewed_masks(path, scan, eye)
    found, notes = reviewed_masks(path, scan, eye, [1, 4])
    assert list(found) == [1, 4]
    np.testing.assert_array_equal(found[4], stack[4])
    assert not notes
