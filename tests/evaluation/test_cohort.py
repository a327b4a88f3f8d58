"""Labelled cohorts: what is found, in which order, and what is refused in words."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from napari_grata.cli import main
from napari_grata.evaluation.cohort import CohortError, open_cohort, parse_labels
from napari_grata.scans import ScanError, open_scan, read_mask, write_mask
from tools.generators.models import write_tiny


def photograph(path: Path, size: tuple[int, int] = (8, 6), value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, np.uint8)).save(path)


def volume(path: Path, shape: tuple[int, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), path)


def test_a_centre_is_a_stream_in_file_name_order_with_masks_by_stem(tmp_path):
    for stem in ("b_10", "b_2", "a"):
        photograph(tmp_path / "Two" / "images" / f"{stem}.JPG")
        photograph(tmp_path / "Two" / "masks" / f"{stem}.png")
    volume(tmp_path / "One" / "images" / "x.nii.gz", (4, 5, 6, 1))
    volume(tmp_path / "One" / "masks" / "x.nii", (4, 5, 6))
    (tmp_path / "notes").mkdir()
    (tmp_path / "Two" / "images" / ".hidden.png").write_bytes(b"")
    (tmp_path / "Two" / "images" / "README.txt").write_text("not an image")
    cohort = open_cohort(tmp_path)
    assert [centre.name for centre in cohort.centres] == ["One", "Two"]
    assert [case.name for case in cohort.centres[1].cases] == ["a", "b_10", "b_2"]
    assert [centre.kind for centre in cohort.centres] == ["volumes", "photographs"]
    assert cohort.centres[0].cases[0].mask.name == "x.nii"
    assert cohort.notes == ()


def test_centres_can_be_chosen_and_an_unknown_one_is_refused_with_those_there_are(tmp_path):
    for centre in ("A", "B"):
        photograph(tmp_path / centre / "images" / "1.png")
        photograph(tmp_path / centre / "masks" / "1.png")
    assert [c.name for c in open_cohort(tmp_path, ["B"]).centres] == ["B"]
    with pytest.raises(CohortError, match=r"no centre C\. It has: A, B"):
        open_cohort(tmp_path, ["C"])


def test_images_without_a_mask_are_named(tmp_path):
    photograph(tmp_path / "A" / "images" / "1.png")
    photograph(tmp_path / "A" / "images" / "2.png")
    photograph(tmp_path / "A" / "masks" / "1.png")
    with pytest.raises(CohortError, match=r"1 of 2 images have no mask.*2\.png"):
        open_cohort(tmp_path)


def test_a_mask_without_an_image_is_left_aside_and_said(tmp_path):
    photograph(tmp_path / "A" / "images" / "1.png")
    photograph(tmp_path / "A" / "masks" / "1.png")
    photograph(tmp_path / "A" / "masks" / "2.png")
    assert "2.png" in open_cohort(tmp_path).notes[0]


def test_a_mask_on_another_grid_is_refused_before_anything_runs(tmp_path):
    photograph(tmp_path / "A" / "images" / "1.png", (8, 6))
    photograph(tmp_path / "A" / "masks" / "1.png", (8, 7))
    with pytest.raises(CohortError, match=r"8 × 6.*8 × 7"):
        open_cohort(tmp_path)


@pytest.mark.parametrize(
    ("arrange", "words"),
    [
        (lambda root: None, "no <centre>/images"),
        (lambda root: (root / "A" / "images").mkdir(parents=True), "no images"),
        (lambda root: photograph(root / "images" / "1.png"), "Name the folder above"),
        (lambda root: photograph(root / "A" / "images" / "1.png"), "no folder masks"),
    ],
)
def test_a_folder_that_is_no_cohort_says_what_is_missing(tmp_path, arrange, words):
    arrange(tmp_path)
    with pytest.raises(CohortError, match=words):
        open_cohort(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(CohortError, match="not a folder"):
        open_cohort(tmp_path / "nowhere")


def test_two_images_of_one_stem_are_refused(tmp_path):
    photograph(tmp_path / "A" / "images" / "1.png")
    photograph(tmp_path / "A" / "images" / "1.jpg")
    photograph(tmp_path / "A" / "masks" / "1.png")
    with pytest.raises(CohortError, match=r"1\.jpg and 1\.png"):
        open_cohort(tmp_path)


def test_photographs_and_volumes_do_not_mix_in_one_stream(tmp_path):
    for folder in ("images", "masks"):
        photograph(tmp_path / "A" / folder / "1.png")
        volume(tmp_path / "A" / folder / "2.nii.gz", (4, 4, 4))
    with pytest.raises(CohortError, match="mixed"):
        open_cohort(tmp_path)


def test_a_broken_file_is_named(tmp_path):
    photograph(tmp_path / "A" / "images" / "1.png")
    (tmp_path / "A" / "masks").mkdir()
    (tmp_path / "A" / "masks" / "1.png").write_bytes(b"not a picture")
    with pytest.raises(ScanError, match=r"masks.1\.png: it cannot be read as a photograph"):
        open_cohort(tmp_path)


def test_labels_are_read_from_pairs():
    assert parse_labels("255:0, 128:1,0:2") == {255: 0, 128: 1, 0: 2}


@pytest.mark.parametrize("text", ["", "255", "a:1", "1:-1", "1:2:3", "0:1,0:2", "0:256"])
def test_labels_that_mean_nothing_are_refused(text):
    with pytest.raises(CohortError, match="labels"):
        parse_labels(text)


def test_the_lists_of_the_papers_are_read_as_they_are(tmp_path):
    rows = {"Eye_test": ["b"], "Eye_train": ["c", "a"], "Valid": ["d"]}
    for name, stems in rows.items():
        lines = [f"Images/{one}.png,Masks/{one}.tif" for one in stems]
        (tmp_path / f"{name}.csv").write_text("\n".join(["image,mask", *lines]) + "\n")
        for one in stems:
            photograph(tmp_path / "Images" / f"{one}.png")
            # RIM-ONE's masks are one a reader; the lists name them without the reader.
            photograph(tmp_path / "Masks" / f"{one}-1.tif")
    (tmp_path / "notes.csv").write_text("something,else\n")
    cohort = open_cohort(tmp_path, ["Valid", "Eye"])
    assert [centre.name for centre in cohort.centres] == ["Valid", "Eye"]
    assert [case.name for case in cohort.centres[1].cases] == ["c", "a", "b"]
    assert cohort.centres[1].cases[0].mask.name == "c-1.tif"
    assert [case.name for case in cohort.joined().centres[0].cases][:2] == ["Valid/d", "Eye/c"]
    assert cohort.centres[1].in_order(0) == cohort.centres[1]
    (tmp_path / "Images" / "a.png").unlink()
    with pytest.raises(CohortError, match=r"1 of its files are not there: a\.png"):
        open_cohort(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image;mask\na.png;gone.png", r"1 of its files are not there: gone\.png"),
        ("image,mask\na.png,a.png\n,a.png", "line 3 names no image or no mask"),
        ("image,mask\n", "it is empty"),
    ],
)
def test_a_list_that_does_not_hold_together_is_refused_in_words(tmp_path, text, words):
    photograph(tmp_path / "a.png")
    (tmp_path / "One.csv").write_text(text)
    with pytest.raises(CohortError, match=rf"One\.csv: {words}"):
        open_cohort(tmp_path)


def test_centres_of_the_hospital_s_formats_are_measured_and_calibrated(tmp_path):
    """Series, NRRD and MetaImage; truth as DICOM segmentation, NIfTI and 3D Slicer's NRRD."""
    for extra in ("highdicom", "SimpleITK"):
        pytest.importorskip(extra, reason="needs the extras dicom and itk")
    from tools.generators import dicom as made

    labels = np.zeros((4, 20, 30), np.uint8)
    labels[1:3, 5:15, 8:20], labels[1:3, 8:12, 10:14] = 1, 2
    slices = np.random.default_rng(0).integers(0, 99, labels.shape).astype(np.int16) + labels * 99
    images, masks = tmp_path / "data" / "One" / "images", tmp_path / "data" / "One" / "masks"
    masks.mkdir(parents=True)
    for name, ending in (("a.1", ".dcm"), ("b", ".nii.gz"), ("c", ".seg.nrrd")):
        made.classic(slices, images / name, description="DOE", suffix="")
        write_mask(labels, open_scan(images / name), masks / f"{name}{ending}")
    for name in ("d.nrrd", "e.mha"):
        write_mask(slices // 4, open_scan(images / "b"), images / name)
        write_mask(labels, open_scan(images / name), masks / name)
    model, out = str(write_tiny(tmp_path / "model")), tmp_path / "out"
    words = ["benchmark", str(tmp_path / "data"), "--model", model, "--out", str(out), "--quiet"]
    assert main([*words, "--methods", "source", "--device", "cpu"]) == 0
    with (out / "cases.csv").open(encoding="utf-8-sig") as file:
        cases = [row["case"] for row in csv.DictReader(file) if row["structure"] == "disc"]
    assert cases == ["a.1", "b", "c", "d", "e"]
    assert not [p for p in out.rglob("*") if p.is_file() and b"DOE" in p.read_bytes()]
    assert main(["calibrate", str(images), "--model", model, "--on", "five scans"]) == 0
    assert len(open_cohort(tmp_path / "data").centres[0].cases[0].files) == len(slices) + 1

    # By a list, with a photograph of the eye; a series more in a folder has to be chosen from.
    colours = np.dstack([slices[1] % 256] * 3).astype(np.uint8)
    made.photograph(colours, tmp_path / "data" / "eye.dcm")
    photograph(tmp_path / "data" / "eye.png", (20, 30), 1)
    made.classic(slices, images / "b", description="Other", series=9, names="abcd")
    rows = ["image,mask", "One/images/b#2,One/masks/b.nii.gz", "eye.dcm,eye.png"]
    (tmp_path / "data" / "chosen.csv").write_text("\n".join(rows))
    chosen = open_cohort(tmp_path / "data").centres[0].cases
    assert [np.unique(read_mask(c.mask, open_scan(c.image))).max() for c in chosen] == [2, 1]
    (tmp_path / "data" / "chosen.csv").unlink()
    with pytest.raises(ScanError, match=r"it holds 2 scans\. #1: CT"):
        open_cohort(tmp_path / "data")
