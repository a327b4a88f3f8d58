"""Cases adapted ahead of the reader: each in its own folder, in order, whatever goes wrong."""

from __future__ import annotations

import contextlib
import csv
import gc
import itertools
import json
import os
import sqlite3
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from napari_grata.adaptation import AdaptationRun, Record, Settings, reopen
from napari_grata.adaptation.teaching import taught_state
from napari_grata.review.adapt_list import (
    in_words,
    keep_run,
    needs_work,
    work_on_case,
    work_on_list,
)
from napari_grata.review.candidates import CandidateRuns
from napari_grata.review.carried import OPTION, CarriedChoice, carried_by
from napari_grata.review.case_list import CaseList
from napari_grata.review.cases import Case, CaseState, CaseSummary, ListError, digest
from napari_grata.review.choice_record import record_choice
from napari_grata.review.choosing import Choice, Estimate, Pick, weigh
from napari_grata.review.compare import LONGEST_SIDE
from napari_grata.review.final_masks import export_masks, mask_digest
from napari_grata.scans import Scan, open_scan
from napari_grata.segmenters import Segmenter
from tools.generators.models import Small, small_card

LEARN = Settings(learning_rate=0.02)
AVERAGE = LEARN.but(predict="average")


@pytest.fixture
def segmenter() -> Segmenter:
    card = small_card(normalisation={"kind": "min-max"}, size=(32, 32), weights_sha256="a" * 64)
    return Segmenter(card, Small().eval(), torch.device("cpu"))


def volume(path: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    data = rng.normal(100, 25, (30, 34, 3)).astype(np.float32)
    data[8:20, 9:25] += 90
    nib.save(nib.Nifti1Image(data, np.diag([1.0, 1.5, 3.0, 1.0])), path)
    return path


@pytest.fixture
def cases(tmp_path: Path) -> CaseList:
    folder = tmp_path / "centre"
    folder.mkdir()
    for number in range(1, 4):
        volume(folder / f"Miller_{number}.nii.gz", number)
    found = CaseList.make(folder)
    found.choose(settings=LEARN.to_dict())
    return found


def finish(items) -> CaseSummary:
    last = list(items)[-1]
    assert isinstance(last, CaseSummary)
    return last


def masks(cases: CaseList, key: str) -> dict[int, np.ndarray]:
    folder = cases.work(key).run_folder
    assert folder is not None
    found = reopen(folder)
    found.close()
    return found.adapted_masks


def same_masks(first: dict[int, np.ndarray], second: dict[int, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(
        np.array_equal(first[index], second[index]) for index in first
    )


def alone(cases: CaseList, key: str, segmenter: Segmenter, settings=LEARN, start=None):
    run = AdaptationRun(segmenter, open_scan(cases.case(key).sources[0]), settings, start=start)
    list(run.records())
    return run


def test_every_case_gets_a_run_a_summary_and_a_picture_of_its_own(
    cases: CaseList, segmenter: Segmenter
) -> None:
    items = list(work_on_list(cases, segmenter))
    assert [case.key for case, item in items if isinstance(item, CaseSummary)] == [
        case.key for case in cases.cases
    ]
    assert sum(isinstance(item, Record) for _, item in items) == 9
    assert any(isinstance(item, str) for _, item in items)
    for case in cases.cases:
        run = alone(cases, case.key, segmenter)
        assert same_masks(masks(cases, case.key), run.adapted_masks)
        summary = cases.summary(case)
        assert summary is not None
        agreement = [dice(run, value) for value in (1, 2)]
        assert summary.change == pytest.approx(1 - np.mean(agreement))
        assert (summary.adapted, summary.error, summary.slices) == (True, None, 3)
        assert summary.run == "run-0001"
        assert origin(cases, case.key) is None
        seen = [flag for record in run.past for flag in record.flags]
        assert sum(flag.count for flag in summary.flags) == len(seen)
        with Image.open(cases.work(case).thumbnail) as picture:
            assert max(picture.size) <= LONGEST_SIDE
            # 30 × 1 mm by 34 × 1.5 mm: square in millimetres.
            assert picture.size[0] / picture.size[1] == pytest.approx(30 / 51, abs=0.05)
        mask = cases.mask_now(case)
        assert (mask.kind, mask.weights_sha256) == ("adapted", "a" * 64)
        assert (mask.run, mask.step) == ("run-0001", 3)
        assert mask.settings == digest(LEARN.to_dict())
    assert cases.progress().prepared == 3


def origin(cases: CaseList, key: str) -> dict[str, object] | None:
    """Which case's model a case's run began with; None for the source model."""
    return json.loads((cases.work(key).run_folder / "origin.json").read_text())["from"]


def dice(run: AdaptationRun, value: int) -> float:
    """Dice over the whole volume; the cup (2) lies inside the disc (1)."""
    before, after = (
        np.stack([masks[index] for index in sorted(masks)]) >= value
        for masks in (run.source_masks, run.adapted_masks)
    )
    total = before.sum() + after.sum()
    return 2 * (before & after).sum() / total if total else 1.0


def test_a_model_that_is_carried_on_begins_where_the_case_before_ended(
    cases: CaseList, segmenter: Segmenter
) -> None:
    cases.choose(carry=True)
    for _ in work_on_list(cases, segmenter):
        pass
    state = None
    for case in cases.cases:
        run = alone(cases, case.key, segmenter, start=state)
        assert same_masks(masks(cases, case.key), run.adapted_masks)
        state = run.state
    second = cases.work("case-0002").run_folder
    assert origin(cases, "case-0002") == {"case": "case-0001", "run": "run-0001", "step": 3}
    assert json.loads((second / "run.json").read_text())["continued"] is True
    assert origin(cases, "case-0001") is None
    assert origin(cases, "case-0003")["case"] == "case-0002"


def test_a_model_taught_elsewhere_is_begun_with(cases: CaseList, segmenter: Segmenter) -> None:
    run = alone(cases, "case-0003", segmenter)
    finish(work_on_case(cases, cases.cases[0], segmenter, start=run.state))
    wanted = alone(cases, "case-0001", segmenter, start=run.state)
    assert same_masks(masks(cases, "case-0001"), wanted.adapted_masks)
    finish(work_on_case(cases, cases.cases[1], segmenter, start=run.state))
    assert origin(cases, "case-0002")["case"] == ""


def test_a_case_that_failed_is_passed_over_by_the_model_that_is_carried_on(
    cases: CaseList, segmenter: Segmenter
) -> None:
    cases.choose(carry=True)
    cases.cases[1].sources[0].write_bytes(b"no scan")
    for _ in work_on_list(cases, segmenter):
        pass
    assert origin(cases, "case-0003")["case"] == "case-0001"


def test_a_case_begins_anew_where_the_one_before_was_adapted_in_another_way(
    cases: CaseList, segmenter: Segmenter
) -> None:
    cases.choose(carry=True)
    finish(work_on_case(cases, cases.cases[0], segmenter, LEARN.but(learning_rate=0.001)))
    finish(work_on_case(cases, cases.cases[1], segmenter))
    assert origin(cases, "case-0002") is None


@pytest.mark.parametrize("settings", [LEARN, AVERAGE], ids=["stream", "average"])
@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
def test_closed_at_any_point_the_next_call_goes_on_to_the_same_masks(
    cases: CaseList, segmenter: Segmenter, settings: Settings, stop_after: int
) -> None:
    case = cases.cases[0]
    items = work_on_case(cases, case, segmenter, settings)
    list(itertools.islice(items, stop_after))
    items.close()
    assert cases.state(case) is CaseState.NEW
    rest = list(work_on_case(cases, case, segmenter, settings))
    run = alone(cases, case.key, segmenter, settings)
    assert sum(isinstance(item, Record) for item in rest) == len(run.plan) - max(0, stop_after - 2)
    assert same_masks(masks(cases, case.key), run.adapted_masks)
    assert len(cases.work(case).run_folders()) == 1


def test_what_was_broken_off_with_other_settings_is_not_gone_on_with_and_goes(
    cases: CaseList, segmenter: Segmenter
) -> None:
    case = cases.cases[0]
    items = work_on_case(cases, case, segmenter, LEARN.but(seed=5))
    list(itertools.islice(items, 4))
    items.close()
    summary = finish(work_on_case(cases, case, segmenter))
    assert summary.run == "run-0002"
    assert [path.name for path in cases.work(case).run_folders()] == ["run-0002"]
    assert same_masks(masks(cases, case.key), alone(cases, case.key, segmenter).adapted_masks)


def test_the_next_program_goes_on_where_the_list_was_closed(
    cases: CaseList, segmenter: Segmenter
) -> None:
    items = work_on_list(cases, segmenter)
    list(itertools.islice(items, 9))  # the first case and a part of the second
    items.close()
    cases.close()
    again = CaseList.load(cases.folder)
    worked = {case.key for case, _ in work_on_list(again, segmenter)}
    assert worked == {"case-0002", "case-0003"}
    assert list(work_on_list(again, segmenter)) == []


def test_what_was_decided_or_done_by_hand_is_left_alone(
    cases: CaseList, segmenter: Segmenter
) -> None:
    cases.decide("case-0001", "keep-source")
    cases.work("case-0002").write_summary(CaseSummary(segmented=True, adapted=True, model="own"))
    assert [case.key for case, _ in work_on_list(cases, segmenter)][-1] == "case-0003"
    assert not cases.work("case-0001").run_folders()
    assert not cases.work("case-0002").run_folders()


def test_doing_it_again_keeps_the_older_run(cases: CaseList, segmenter: Segmenter) -> None:
    for _ in range(2):
        for _ in work_on_case(cases, cases.case("case-0002"), segmenter, again=True):
            pass
    assert [path.name for path in cases.work("case-0002").run_folders()] == ["run-0001", "run-0002"]
    assert cases.mask_now("case-0002").run == "run-0002"


@pytest.mark.parametrize("what", ["damaged", "missing", "misfit"])
def test_a_case_that_cannot_be_done_says_why_and_the_list_goes_on(
    cases: CaseList, segmenter: Segmenter, what: str
) -> None:
    bad = cases.cases[1]
    path = bad.sources[0]
    if what == "damaged":
        path.write_bytes(path.read_bytes()[:2000])
    elif what == "missing":
        path.rename(path.with_suffix(".away"))
        cases.refresh()
    else:
        nib.save(nib.Nifti1Image(np.zeros((30, 34), np.uint8), np.eye(4)), path)
    list(work_on_list(cases, segmenter))
    assert cases.progress().prepared == 2
    assert cases.state(bad) is CaseState.FAILED
    said = cases.problem(bad)
    assert said is not None
    assert said.endswith(".")
    assert "Miller" not in said
    assert "centre" not in said
    if what != "missing":
        assert not needs_work(cases, bad, segmenter)
        volume(path, 9)
        cases.refresh()
        assert needs_work(cases, bad, segmenter)
        assert finish(work_on_case(cases, bad, segmenter)).error is None
        assert cases.problem(bad) is None


def test_a_failure_while_adapting_is_the_cases_own(
    cases: CaseList, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Greedy(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("out of memory: tried to allocate 900 GB for Miller_1")

    greedy = Segmenter(segmenter.card, Greedy().eval(), torch.device("cpu"))
    summary = finish(work_on_case(cases, cases.cases[0], greedy))
    assert "memory" in (summary.error or "")
    assert "Miller" not in (summary.error or "")
    assert finish(work_on_case(cases, cases.cases[1], segmenter)).error is None


def test_a_list_whose_folder_vanishes_stops_and_loses_nothing(
    cases: CaseList, segmenter: Segmenter, tmp_path: Path
) -> None:
    finish(work_on_case(cases, cases.cases[0], segmenter))
    items = work_on_list(cases, segmenter)
    for _, item in items:
        if isinstance(item, Record):
            break
    away = tmp_path / "away"
    cases.folder.rename(away)
    with pytest.raises(ListError, match="bring the drive back"):
        list(items)
    assert not cases.folder.exists()
    away.rename(cases.folder)
    cases.refresh()
    assert cases.state("case-0001") in (CaseState.ADAPTED, CaseState.FLAGGED)
    assert {case.key for case, _ in work_on_list(cases, segmenter)} == {"case-0002", "case-0003"}
    assert cases.progress().prepared == 3


# Python itself complains when the files of the run that failed are closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(os.name == "nt", reason="needs a limit on the size of files")
def test_a_write_that_stops_half_way_leaves_no_half_summary(
    cases: CaseList, segmenter: Segmenter
) -> None:
    import resource

    finish(work_on_case(cases, cases.cases[0], segmenter))
    before = cases.summary("case-0001")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
    try:
        with pytest.raises(ListError):
            cases.work("case-0001").write_summary(CaseSummary(segmented=True))
        with pytest.raises(ListError):
            list(work_on_case(cases, cases.cases[1], segmenter))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert cases.summary("case-0001") == before
    cases.close()
    cases = CaseList.load(cases.folder)
    assert cases.summary("case-0001") == before
    assert not list(cases.folder.rglob(".partial-*"))
    assert finish(work_on_case(cases, cases.cases[1], segmenter)).error is None


def test_a_list_that_another_computer_has_open_is_read_but_not_worked_on(
    cases: CaseList, segmenter: Segmenter
) -> None:
    finish(work_on_case(cases, cases.cases[0], segmenter))
    cases.close()
    lock = cases.folder / "list.lock"
    with contextlib.closing(sqlite3.connect(lock)) as file, file:
        elsewhere = ("token", 1, 1.0, "boot", "machine", "reading-room-7")
        file.execute("INSERT INTO holder VALUES (1, ?, ?, ?, ?, ?, ?)", elsewhere)
    again = CaseList.load(cases.folder)
    assert again.state("case-0001") in (CaseState.ADAPTED, CaseState.FLAGGED)
    with pytest.raises(ListError, match="reading-room-7"):
        list(work_on_list(again, segmenter))
    again.choose(position="case-0002")
    again.close()
    lock.unlink()
    assert CaseList.load(cases.folder).position is None


def test_one_worker_at_a_time_has_a_case(cases: CaseList, segmenter: Segmenter) -> None:
    items = work_on_case(cases, cases.cases[0], segmenter)
    next(items)
    with pytest.raises(ListError, match="already"):
        list(work_on_case(cases, cases.cases[0], segmenter))
    items.close()
    assert finish(work_on_case(cases, cases.cases[0], segmenter)).adapted


def test_nothing_of_a_case_is_kept_when_it_is_done(cases: CaseList, segmenter: Segmenter) -> None:
    def alive() -> int:
        gc.collect()
        return sum(type(found) in (Scan, AdaptationRun) for found in gc.get_objects())

    before = alive()
    for _, item in work_on_list(cases, segmenter):
        if isinstance(item, CaseSummary):
            del item
    del _
    assert alive() <= before


def test_a_run_that_was_watched_and_rolled_back_is_summed_up_as_it_stands(
    cases: CaseList, segmenter: Segmenter
) -> None:
    case = cases.cases[0]
    folder = cases.work(case).new_run_folder()
    run = AdaptationRun(segmenter, open_scan(case.sources[0]), LEARN, folder=folder)
    list(run.records())
    whole = keep_run(cases, case, run)
    run.rollback(1)
    back = keep_run(cases, case, run)
    assert (whole.slices, back.slices) == (3, 1)
    assert whole.change != back.change
    assert cases.work(case).run_folder == run.folder
    assert cases.mask_now(case).step == 1
    run.close()


def test_after_a_drawing_change_and_picture_are_those_of_the_drawing(
    cases: CaseList, segmenter: Segmenter, tmp_path: Path
) -> None:
    case = cases.cases[0]
    made = finish(work_on_case(cases, case, segmenter))
    work, scan = cases.work(case), open_scan(case.sources[0])
    stacks = [scan.empty_mask(), scan.empty_mask()]
    with contextlib.closing(reopen(work.run_folder, scan)) as run:
        for stack, masks in zip(stacks, (run.source_masks, run.adapted_masks), strict=True):
            for index, mask in masks.items():
                scan.put_mask(stack, index, mask)
    source, adapted = stacks
    picture = work.thumbnail.read_bytes()
    work.save_edit(np.zeros_like(source), scan, mask_digest(adapted))
    now = cases.summary(case)
    assert now == made.but(change=1.0, edited=True)
    assert work.thumbnail.read_bytes() != picture
    assert cases.mask_now(case).kind == "edited"
    work.save_edit(source, scan, mask_digest(adapted))
    assert cases.summary(case).change == 0.0
    cases.decide(case, "accept", mask=cases.mask_now(case))
    list(export_masks(cases, tmp_path / "out"))
    table = (tmp_path / "out" / "cases.csv").read_text(encoding="utf-8-sig")
    assert next(csv.DictReader(table.splitlines()))["change"] == "0.0000"
    cases.close()
    again = CaseList.load(cases.folder)
    assert again.summary(case) == now.but(change=0.0)
    # A drawing over other masks is kept, and changes nothing in the list.
    again.work(case).save_edit(adapted, scan, mask_digest(np.ones_like(source)))
    assert again.summary(case).change == 0.0
    # Nor is a drawing lost where the run that it was made on cannot be read any more.
    (again.work(case).run_folder / "card.yaml").write_text("no card")
    assert again.work(case).save_edit(adapted, scan, mask_digest(adapted)) == 4
    # New masks have nothing drawn on them.
    last = finish(work_on_case(again, case, segmenter, LEARN.but(learning_rate=0.1), again=True))
    assert not last.edited


def test_without_a_method_the_case_counts_as_segmented(
    cases: CaseList, segmenter: Segmenter
) -> None:
    summary = finish(work_on_case(cases, cases.cases[0], segmenter, Settings(method="source")))
    assert (summary.segmented, summary.adapted, summary.change) == (True, False, 0.0)
    assert not cases.state("case-0001").decided


def test_a_sentence_about_a_failure_names_no_file_and_keeps_its_figures() -> None:
    told = "The spacing 0.1 mm of axis 1 is too small."
    for name, text, wanted in (
        ("1.nii.gz", told, told),
        ("1.nii.gz", "scans/1.nii.gz is damaged.", "case-0001 is damaged."),
        ("Miller_Anna.nii.gz", "Miller_Anna is damaged.", "case-0001 is damaged."),
        ("4711893.png", "4711893 is damaged.", "case-0001 is damaged."),
    ):
        case = Case("case-0001", 1, (Path("/data/scans") / name,), name)
        assert in_words(ValueError(text), case) == wanted


def test_a_file_that_was_only_touched_is_not_adapted_again_but_a_changed_one_is(
    cases: CaseList, segmenter: Segmenter
) -> None:
    for _ in work_on_list(cases, segmenter):
        pass
    touched, changed = cases.cases[0], cases.cases[1]
    os.utime(touched.sources[0], (1, 1))
    changed.sources[0].write_bytes(cases.cases[2].sources[0].read_bytes())
    cases.refresh()
    assert cases.summary(touched).stale
    for _ in work_on_list(cases, segmenter):
        pass
    assert [path.name for path in cases.work(touched).run_folders()] == ["run-0001"]
    assert not cases.summary(touched).stale
    assert [path.name for path in cases.work(changed).run_folders()] == ["run-0001", "run-0002"]


def choose(cases: CaseList, key: str, segmenter: Segmenter, candidate: str) -> CarriedChoice:
    """Review two slices of a case, and choose a candidate there for the disc."""
    scan = open_scan(cases.case(key).sources[0])
    runs = CandidateRuns(segmenter, scan, ["batch-norm"])
    for _ in runs.records():
        pass
    reviewed = {index: np.zeros(scan.slice_shape(index), np.uint8) for index in (0, 2)}
    for mask in reviewed.values():
        mask[8:20, 9:25] = 1
    for _ in runs.teach(reviewed):
        pass
    theta = taught_state(runs.runs["taught"]).theta.numpy() if candidate == "taught" else None
    *_, weighing = weigh(segmenter, runs.candidates, reviewed, stack=True)
    told = Estimate(0.1, 0.05, 0.2)
    picks = (Pick("disc", candidate, candidate, 0.0, told), Pick("cup", "source", "", 0.0, told))
    record = record_choice(
        segmenter.card, scan, weighing, runs.settings, Choice(picks, "The disc.")
    )
    runs.close()
    return CarriedChoice({**record.told, "case": "case 1"}, theta)


@pytest.mark.parametrize("candidate", ["batch-norm", "taught"])
def test_a_choice_made_on_one_case_is_used_on_all_others_that_nobody_has_touched(
    cases: CaseList, segmenter: Segmenter, candidate: str
) -> None:
    finish(work_on_case(cases, cases.case("case-0002"), segmenter))
    own = masks(cases, "case-0002")
    carried = choose(cases, "case-0001", segmenter, candidate)
    carried.keep(cases)
    for _ in work_on_list(cases, segmenter):
        pass
    scan = open_scan(cases.case("case-0002").sources[0])
    with contextlib.closing(AdaptationRun(segmenter, scan, LEARN)) as run:
        list(run.records())
        made = returned(carried.lay_over(run, segmenter, scan))
    source = run.source_masks
    for key in ("case-0002", "case-0003"):  # one was adapted before, one is adapted now
        with contextlib.closing(reopen(cases.work(key).run_folder)) as found:
            (told,) = found.chosen
        assert (told["case"], told["used_on"]) == ("case 1", [0, 1, 2])
        assert told["words"] == "The disc."
        assert not needs_work(cases, cases.case(key), segmenter)
    assert same_masks(masks(cases, "case-0002"), made)
    assert not same_masks(made, own)
    for index, mask in made.items():  # the cup stays the source model's
        inside = (mask > 0) & (source[index] > 0)
        assert np.array_equal((mask == 2)[inside], (source[index] == 2)[inside])


def test_a_carried_choice_leaves_alone_what_is_the_users_and_is_taken_back(
    cases: CaseList, segmenter: Segmenter
) -> None:
    for _ in work_on_list(cases, segmenter):
        pass
    own = {case.key: masks(cases, case.key) for case in cases.cases}
    scan = open_scan(cases.case("case-0001").sources[0])
    cases.work("case-0001").save_edit(np.zeros(scan.mask_shape, int), scan)
    cases.decide("case-0002", "accept")
    carried = choose(cases, "case-0001", segmenter, "batch-norm")
    carried.keep(cases)
    again = carried_by(cases)
    assert again is not None
    assert again.mark == carried.mark
    worked = {case.key for case, _ in work_on_list(cases, segmenter)}
    assert worked == {"case-0003"}
    for key in ("case-0001", "case-0002"):
        assert same_masks(masks(cases, key), own[key])
    assert not same_masks(masks(cases, "case-0003"), own["case-0003"])
    # Decided since, it stays as it was decided on; else the run's own masks are there again.
    cases.choose(**{OPTION: {}})
    stream = work_on_case(cases, cases.case("case-0003"), segmenter)
    finish(stream)
    assert same_masks(masks(cases, "case-0003"), own["case-0003"])
    carried.keep(cases)
    items = work_on_case(cases, cases.case("case-0003"), segmenter)
    next(item for item in items if isinstance(item, str) and "Keeping" in item)
    cases.decide("case-0003", "accept")
    finish(items)
    assert same_masks(masks(cases, "case-0003"), own["case-0003"])


def returned(stream):
    """Return what a generator returns."""
    while True:
        try:
            next(stream)
        except StopIteration as end:
            return end.value
