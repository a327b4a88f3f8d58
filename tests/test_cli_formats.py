"""The command line over the hospital's formats: a sample as a DICOM series, MetaImage, lists."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")

from napari_grata.cli import main  # noqa: E402
from napari_grata.review.case_list import CaseList  # noqa: E402
from napari_grata.review.cases import ListError  # noqa: E402
from napari_grata.scans import open_scan, read_mask  # noqa: E402
from napari_grata.scans.samples import find_sample  # noqa: E402
from tools.generators import dicom as made  # noqa: E402

COMMON = ["--model", "brain-tissue-t1", "--device", "cpu", "--quiet", "--json"]
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def brain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A few slices of a shipped sample: as NIfTI, and as the DICOM series of the same voxels."""
    folder = tmp_path_factory.mktemp("brain")
    image = nib.load(find_sample("brain-other-scanner").path).slicer[:, :, 22:27]
    volume = np.rint(np.asarray(image.dataobj)).astype(np.int16)
    nib.save(nib.Nifti1Image(volume, image.affine), folder / "brain.nii.gz")
    matrix = LPS @ image.affine
    sizes = np.linalg.norm(matrix[:3, :2], axis=0)
    made.classic(
        volume.transpose(2, 1, 0),
        folder / "DOE JOHN",
        modality="MR",
        description="T1",
        directions=(matrix[:3, :2] / sizes).T,
        pixel=sizes[::-1],
        step=matrix[:3, 2],
        origin=matrix[:3, 3],
        suffix="",
    )
    return folder / "brain.nii.gz", folder / "DOE JOHN"


def test_a_series_is_segmented_as_the_same_voxels_in_nifti_are(brain, tmp_path, capsys) -> None:
    nifti, series = brain
    assert main(["segment", str(nifti), "--out", str(tmp_path / "nifti"), *COMMON]) == 0
    assert main(["segment", str(series), "--out", str(tmp_path / "dicom"), *COMMON]) == 0
    told = capsys.readouterr()
    assert "DOE" not in told.out + told.err
    mask = nib.load(tmp_path / "dicom" / "source.nii.gz")
    theirs = nib.load(tmp_path / "nifti" / "source.nii.gz")
    np.testing.assert_allclose(mask.affine, theirs.affine, atol=1e-3)
    np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(theirs.dataobj))
    assert set(np.unique(np.asarray(mask.dataobj))) == {0, 1, 2, 3}


def test_masks_of_a_series_go_back_to_its_study_where_that_is_asked_for(brain, tmp_path) -> None:
    pytest.importorskip("highdicom", reason="needs the extra dicom")
    _, series = brain
    arguments = ["segment", str(series / "IM0003"), "--out", str(tmp_path), *COMMON]
    assert main([*arguments, "--slices", "2-4", "--format", "dicom-seg"]) == 0
    seg = pydicom.dcmread(tmp_path / "source.dcm")
    assert [one.SegmentLabel for one in seg.SegmentSequence] == [
        "csf",
        "grey matter",
        "white matter",
    ]
    scan = open_scan(series)
    mask = read_mask(tmp_path / "source.dcm", scan)
    assert np.flatnonzero(mask.any(axis=(1, 2))).tolist() == [1, 2, 3]
    assert set(np.unique(mask)) == {0, 1, 2, 3}


def test_a_series_is_adapted_and_its_run_reopened(brain, tmp_path, capsys) -> None:
    _, series = brain
    out = tmp_path / "out"
    arguments = ["adapt", f"{series.parent}#1", "--out", str(out), "--slices", "2-4", *COMMON]
    assert main([*arguments, "--method", "as-published"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["slices"] == 3
    assert Path(told["after"]).name == "adapted.nii.gz"
    named = [p for p in out.rglob("*") if p.is_file() and b"DOE" in p.read_bytes()]
    # Where the scan lies, for reopening: the folder is called so. To be deleted before sharing.
    assert [p.name for p in named] == ["scan.json"]
    again = ["reopen", str(out / "run"), "--out", str(tmp_path / "again"), "--format", "dicom-seg"]
    pytest.importorskip("highdicom", reason="needs the extra dicom")
    assert main(again) == 0
    scan = open_scan(series)
    first = read_mask(out / "adapted.nii.gz", scan)
    np.testing.assert_array_equal(read_mask(tmp_path / "again" / "adapted.dcm", scan), first)


def test_a_format_that_cannot_be_is_told_before_anything_is_computed(
    brain, tmp_path, capsys
) -> None:
    nifti, _ = brain
    arguments = ["segment", str(nifti), "--out", str(tmp_path / "out"), *COMMON]
    assert main([*arguments, "--format", "dicom-seg"]) == 2
    assert "the scan is none" in capsys.readouterr().err
    assert main([*arguments, "--format", "jpeg"]) == 2
    assert "Known are nifti, dicom-seg" in capsys.readouterr().err


def test_metaimage_in_and_a_segmentation_for_3d_slicer_out(brain, tmp_path) -> None:
    itk = pytest.importorskip("SimpleITK", reason="needs the extra itk")
    nifti, _ = brain
    itk.WriteImage(itk.ReadImage(str(nifti)), str(tmp_path / "brain.mha"))
    arguments = ["segment", str(tmp_path / "brain.mha"), "--out", str(tmp_path), *COMMON]
    assert main([*arguments, "--slices", "3", "--format", "seg-nrrd"]) == 0
    image = itk.ReadImage(str(tmp_path / "source.seg.nrrd"))
    assert image.GetMetaData("Segment1_Name") == "grey matter"
    assert image.GetMetaData("Segment1_LabelValue") == "2"


def test_a_list_of_cases_takes_each_series_once(brain, tmp_path) -> None:
    volume = np.random.default_rng(0).integers(0, 99, (3, 6, 7)).astype(np.int16)
    root = tmp_path / "centre"
    for patient in ("a", "b"):
        for series in (1, 2):
            made.classic(volume, root / patient / str(series), series=series, suffix="")
    nib.save(nib.Nifti1Image(volume, np.eye(4)), root / "c.nii.gz")
    (root / "README").write_text("not a scan")
    cases = CaseList.make(root, tmp_path / "list")
    sources = [case.sources[0].relative_to(root).as_posix() for case in cases.cases]
    assert sources == ["a/1/IM0001", "a/2/IM0001", "b/1/IM0001", "b/2/IM0001", "c.nii.gz"]
    assert cases.cases[1].title == "a/2/IM0001"
    assert open_scan(cases.cases[1].sources).mask_shape == volume.shape
    cases.close()
    files = sorted((root / "a" / "1").iterdir())
    cases = CaseList.make(files, tmp_path / "list of files")
    assert [case.sources for case in cases.cases] == [(files[0],)]
    cases.close()
    made.classic(volume[:1], tmp_path / "dose", Modality="RTDOSE")
    with pytest.raises(ListError, match="is no scan"):
        CaseList.make(list((tmp_path / "dose").iterdir()), tmp_path / "third")
