"""A run that finds the frame of each photograph: masks, records, reopening, doing it again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_grata.adaptation import AdaptationRun, Settings, preset, reopen
from napari_grata.adaptation.uncertainty import Uncertainty
from napari_grata.review.candidates import CandidateRuns
from napari_grata.review.reproduce import run_again
from napari_grata.scans import Scan, scan_from_array
from napari_grata.segmenters import Segmenter
from tools.generators.discs import EYE, Bright, photograph

FRAMED = Settings(method="source", reframe=True)


@pytest.fixture
def segmenter() -> Segmenter:
    return Segmenter(replace(EYE, weights_sha256="0" * 64), Bright(), "cpu")


@pytest.fixture
def scan() -> Scan:
    """Two photographs: one too wide, with a bright spot far from the disc; one that fits."""
    wide = photograph((200, 200), (60, 70), 50).read_slice(0).copy()
    wide[180:190, 180:190] = 255
    fits = photograph((100, 100), (50, 50), 60).read_slice(0)
    pictures = [wide, np.kron(fits, np.ones((2, 2, 1), np.uint8))]
    return scan_from_array(np.stack(pictures), name="p", rgb=True)


def run(segmenter: Segmenter, scan: Scan, settings: Settings = FRAMED, **more) -> AdaptationRun:
    made = AdaptationRun(segmenter, scan, settings, **more)
    for _ in made.records():
        pass
    return made


@pytest.mark.parametrize(
    "settings", [FRAMED, preset("careful").settings], ids=["source", "careful"]
)
def test_the_adapted_mask_is_made_in_the_frame_and_the_source_mask_in_the_picture(
    segmenter: Segmenter, scan: Scan, settings: Settings
) -> None:
    made = run(segmenter, scan, settings)
    record = made.past[-2] if settings.method == "source" else made.past[0]
    assert record.frame is not None
    row0, column0, row1, column1 = record.frame
    assert row1 - row0 == pytest.approx(50 / 0.6, rel=0.06)
    assert record.source_mask[185, 185] == 1
    assert record.adapted_mask[60, 70] == 1
    outside = record.adapted_mask.copy()
    outside[row0:row1, column0:column1] = 0
    assert not outside.any()
    assert made.past[-1].frame is None
    assert made.frame_of(0) == record.frame


def test_looking_back_and_doubt_stay_in_the_frame(segmenter: Segmenter, scan: Scan) -> None:
    made = run(segmenter, scan)
    assert (made.predict(0).label_map == made.adapted_masks[0]).all()
    doubt = Uncertainty(segmenter, scan, run=made).measure(0, "margin")
    row0, column0, row1, column1 = made.frame_of(0)
    assert doubt[row0:row1, column0:column1].any()
    doubt[row0:row1, column0:column1] = 0
    assert not doubt.any()


def test_copies_that_learn_read_the_frames_that_were_found(
    segmenter: Segmenter, scan: Scan
) -> None:
    runs = CandidateRuns(segmenter, scan, ["careful", "batch-norm"])  # the second looks for none
    list(runs.records())
    reviewed = {index: runs.candidates[1].masks[index] for index in (0, 1)}
    list(runs.teach(reviewed))
    found = runs.runs["taught"].frame_of(0)
    assert found is not None
    assert found == runs.runs["careful"].frame_of(0)
    runs.close()


def test_a_region_that_was_drawn_stays_and_no_frame_is_looked_for(
    segmenter: Segmenter, scan: Scan
) -> None:
    made = run(segmenter, scan, region=(20, 20, 120, 120))
    assert made.frame_of(0) == (20, 20, 120, 120)
    assert [record.frame for record in made.past] == [None, None]


def test_the_frame_is_only_found_where_the_settings_say_so(
    segmenter: Segmenter, scan: Scan
) -> None:
    made = run(segmenter, scan, FRAMED.but(reframe=False))
    assert made.frame_of(0) is None
    assert (made.adapted_masks[0] == made.source_masks[0]).all()


def test_a_reopened_run_reads_its_frames_and_does_not_look_for_them_anew(
    segmenter: Segmenter, scan: Scan, tmp_path: Path
) -> None:
    made = AdaptationRun(segmenter, scan, FRAMED, folder=tmp_path / "run")
    stream = made.records()
    next(stream)
    stream.close()
    frame = made.frame_of(0)
    made.close()
    saved = reopen(tmp_path / "run", scan)
    assert saved.records[0].frame == frame
    again = saved.run(segmenter)
    calls = segmenter.network.calls
    assert again.frame_of(0) == frame
    assert segmenter.network.calls == calls
    for _ in again.resume():
        pass
    assert (again.predict(0).label_map == again.adapted_masks[0]).all()
    again.close()


def test_a_run_done_again_reads_the_same_frames(
    segmenter: Segmenter, scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(segmenter, scan, folder=tmp_path / "run").close()
    # They are known: looking for them anew would fail.
    monkeypatch.delattr("napari_grata.adaptation.stepper.find_frame")
    saved = reopen(tmp_path / "run", scan)
    *records, compared = run_again(saved, segmenter, tmp_path / "again")
    assert [one.frame for one in records] == [one.frame for one in saved.records]
    assert compared.same


def test_where_no_frame_is_sure_the_picture_is_flagged_also_after_reopening(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    picture = np.zeros((200, 200, 3), np.uint8)
    picture[100, 100] = 255
    scan = scan_from_array(picture, name="p", rgb=True)
    made = run(segmenter, scan, FRAMED, folder=tmp_path / "run")
    (record,) = made.past
    flags = {flag.code: flag.text for flag in record.flags}
    assert record.frame is None
    assert "No part of the picture was found" in flags["frame-unsure"]
    made.close()
    saved = reopen(tmp_path / "run", scan)
    live = saved.run(segmenter)
    live.rollback(0)
    for _ in live.resume():
        pass
    assert {flag.code for flag in live.past[-1].flags} == set(flags)
    live.close()


def test_the_mask_before_was_made_elsewhere_and_is_not_compared_in_area(
    segmenter: Segmenter,
) -> None:
    wide = photograph((200, 200), (60, 70), 30).read_slice(0).copy()
    wide[120:200, 120:200] = 255
    wide[60:140, 60:140][~(wide[60:140, 60:140] > 200)] = 20
    scan = scan_from_array(wide, name="p", rgb=True)
    made = run(segmenter, scan)
    (record,) = made.past
    assert record.frame is not None
    assert record.adapted_area["disc"] != record.source_area["disc"]
    assert not {flag.code for flag in record.flags} & {"disc-lost", "disc-doubled"}
