"""DICOM segmentations: right by highdicom, SimpleITK and dciodvfy, and read back as they were."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")
hd = pytest.importorskip("highdicom", reason="needs the extra dicom")

from napari_grata.scans import ScanError, open_scan, read_mask, write_mask  # noqa: E402
from napari_grata.scans.masks import mask_target  # noqa: E402
from napari_grata.scans.scan import Label  # noqa: E402
from tools.generators import dicom as made  # noqa: E402

VOLUME = np.random.default_rng(0).integers(0, 1000, (5, 8, 11)).astype(np.int16)
LABELS = np.random.default_rng(1).integers(0, 3, VOLUME.shape).astype(np.uint8) * 2
OBLIQUE = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0][:2]
LEGEND = {2: Label("white matter", "#009E73"), 4: Label("hippocampus"), 7: Label("odd thing")}
WAYS = {
    "axial": (made.AXIAL, (0, 0, 2.5)),
    "flipped": (((-1, 0, 0), (0, -1, 0)), (0, 0, 2.5)),
    "oblique": (OBLIQUE, np.cross(*OBLIQUE) * 2.5),
    "tilted": (made.AXIAL, (0, 0.8, 2.5)),
}


@pytest.fixture(params=[*WAYS, "enhanced"])
def scan(request, tmp_path):
    if request.param == "enhanced":
        return open_scan(made.enhanced(VOLUME, tmp_path / "one.dcm", order=[3, 1, 0, 4, 2]))
    directions, step = WAYS[request.param]
    names = ["d", "a", "c", "e", "b"]
    made.classic(VOLUME, tmp_path / "s", directions=directions, step=step, names=names)
    return open_scan(tmp_path / "s")


def shown(scan, labels):
    """Labels of the files' images as the scan displays them."""
    return scan.geometry.to_display(labels.transpose(2, 1, 0))


def test_a_segmentation_is_read_back_pixel_for_pixel(scan, tmp_path):
    target = mask_target(scan, tmp_path, "mask", "dicom-seg")
    (path,) = write_mask(shown(scan, LABELS), scan, target, legend=LEGEND)
    np.testing.assert_array_equal(read_mask(path, scan), shown(scan, LABELS))

    # By highdicom, through the original images …
    seg = hd.seg.segread(path)
    assert [seg.get_segment_description(n).segment_label for n in (1, 2, 3)] == [
        *("white matter", "hippocampus", "odd thing")
    ]
    files = sorted(
        (pydicom.dcmread(p) for p in scan.path.parent.iterdir() if p.is_file() and p != path),
        key=lambda dataset: dataset.get("ImagePositionPatient", [0, 0, 0])[2],
    )
    names = {"combine_segments": True, "ignore_spatial_locations": True}
    names["assert_missing_frames_are_empty"] = True
    if len(files) == 1:
        by_frame = seg.get_pixels_by_source_frame(
            files[0].SOPInstanceUID, list(range(1, 6)), **names
        )
        expected = LABELS[[3, 1, 0, 4, 2]]
    else:
        uids = [made.uid("image", "CT", 3, "Thorax 2.5 mm", k) for k in range(5)]
        by_frame = seg.get_pixels_by_source_instance(uids, **names)
        expected = LABELS
    np.testing.assert_array_equal(by_frame * 2, expected)

    # … and by SimpleITK, which reads one frame after another.
    itk = pytest.importorskip("SimpleITK", reason="needs the extra itk, to compare with")
    stack = itk.GetArrayFromImage(itk.ReadImage(str(path)))
    groups = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence
    assert len(stack) == len(groups) == 10
    seen = set()
    for picture, group in zip(stack, groups, strict=True):
        value = 2 * group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        place = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        off = scan.geometry.affine[:3, 2] @ (place * (-1, -1, 1) - scan.geometry.affine[:3, 3])
        k = round(off / (scan.geometry.affine[:3, 2] @ scan.geometry.affine[:3, 2]))
        np.testing.assert_array_equal(picture != 0, LABELS[k] == value)
        seen.add((k, value))
    assert len(seen) == 10


def test_a_segmentation_is_what_the_standard_asks_for(scan, tmp_path):
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not on this machine (Debian: dicom3tools)")
    (path,) = write_mask(shown(scan, LABELS), scan, tmp_path / "mask.dcm", legend=LEGEND)
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
    assert done.returncode == 0
    assert "Error" not in done.stderr
    assert "Segmentation" in done.stderr


@pytest.mark.parametrize("modality", ["OP", "DX"])
def test_a_picture_without_a_place_in_the_patient_has_one_too(tmp_path, modality):
    values = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    picture = values if modality == "OP" else values[..., 0]
    files = [tmp_path / "left.dcm", tmp_path / "right.dcm"]
    for series, file in enumerate(files):
        made.photograph(picture, file, modality=modality, series=series, PixelSpacing=[0.1, 0.1])
    left, right = map(open_scan, files)
    labels = np.random.default_rng(1).integers(0, 3, left.mask_shape).astype(np.uint8) * 2
    (path,) = write_mask(labels, left, mask_target(left, tmp_path, "seg", "dicom-seg"))
    np.testing.assert_array_equal(read_mask(path, left), labels)
    seg = hd.seg.segread(path)
    found = seg.get_pixels_by_source_instance(
        [pydicom.dcmread(files[0]).SOPInstanceUID], combine_segments=True
    )
    np.testing.assert_array_equal(found[0] * 2, labels)
    with pytest.raises(ScanError, match="drawn on another image"):
        read_mask(path, right)
    if shutil.which("dciodvfy"):
        done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
        assert "Error" not in done.stderr


def test_a_segmentation_belongs_to_the_study_and_says_so(tmp_path):
    made.classic(VOLUME, tmp_path / "s")
    scan = open_scan(tmp_path / "s")
    (path,) = write_mask(LABELS, scan, tmp_path / "mask.dcm", legend=LEGEND)
    seg, source = pydicom.dcmread(path), pydicom.dcmread(scan.path)
    for name in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert seg[name].value == source[name].value
    assert seg.SeriesInstanceUID != source.SeriesInstanceUID
    types = [s.SegmentedPropertyTypeCodeSequence[0].CodeMeaning for s in seg.SegmentSequence]
    assert types == ["White Matter", "Hippocampus", "Tissue"]
    # It is no scan: neither the folder nor a list of cases takes it for one.
    path.rename(tmp_path / "s" / "mask.dcm")
    assert open_scan(tmp_path / "s").mask_shape == VOLUME.shape
    with pytest.raises(ScanError, match="it holds a mask"):
        open_scan(tmp_path / "s" / "mask.dcm")


def test_a_structure_holds_what_lies_inside_it(tmp_path):
    made.classic(VOLUME, tmp_path / "s")
    scan = open_scan(tmp_path / "s")
    mask = np.zeros_like(LABELS)
    mask[1:4, 2:7, 2:9] = 1
    mask[2:3, 3:5, 4:6] = 2
    legend = {1: Label("disc", parts=(2,)), 2: Label("cup")}
    (path,) = write_mask(mask, scan, tmp_path / "mask.dcm", legend=legend)
    assert (
        hd.seg.segread(path)
        .get_pixels_by_source_instance([made.uid("image", "CT", 3, "Thorax 2.5 mm", 2)])[..., 0]
        .sum()
        == (mask[2] > 0).sum()
    )
    np.testing.assert_array_equal(read_mask(path, scan), mask)


@pytest.mark.parametrize("slices", [[2], [1, 2, 3], range(5)])
def test_a_single_structure_of_any_number_of_slices(tmp_path, slices):
    made.classic(VOLUME, tmp_path / "s")
    scan = open_scan(tmp_path / "s")
    mask = np.zeros_like(LABELS)
    mask[list(slices), 2:5, 3:8] = 1
    (path,) = write_mask(mask, scan, tmp_path / "mask.dcm")
    np.testing.assert_array_equal(read_mask(path, scan), mask)


def test_an_empty_mask_can_be_written(tmp_path):
    made.classic(VOLUME, tmp_path / "s")
    scan = open_scan(tmp_path / "s")
    (path,) = write_mask(scan.empty_mask(), scan, tmp_path / "mask.dcm", legend=LEGEND)
    assert not read_mask(path, scan).any()
    with pytest.raises(ScanError, match="empty and its structures have no names"):
        write_mask(scan.empty_mask(), scan, tmp_path / "other.dcm")


def by_others(scan, masks, path, kind="BINARY"):
    """A segmentation as another program makes it: no label values kept, overlaps allowed."""
    sources = [pydicom.dcmread(p) for p in sorted(scan.path.parent.iterdir())]
    term = pydicom.sr.codedict.codes.SCT.Tissue
    described = [
        hd.seg.SegmentDescription(n + 1, f"s{n}", term, term, "MANUAL") for n in range(len(masks))
    ]
    hd.seg.Segmentation(
        sources, np.stack(masks, -1), kind, described, hd.UID(), 1, hd.UID(), 1,
        *("x", "x", "1", "1"),
    ).save_as(path)  # fmt: skip
    return path


def test_segmentations_of_others(tmp_path):
    made.classic(VOLUME, tmp_path / "s")
    scan = open_scan(tmp_path / "s")
    whole, inner, beside = (np.zeros(VOLUME.shape, bool) for _ in range(3))
    whole[:, 1:6], inner[2:4, 2:4, 3:5], beside[3, 5:8] = True, True, True
    path = by_others(scan, [inner, whole], tmp_path / "nested.dcm")
    np.testing.assert_array_equal(read_mask(path, scan), whole * 2 - inner.astype(np.uint8))
    with pytest.raises(ScanError, match="segments overlap"):
        read_mask(by_others(scan, [whole, beside], tmp_path / "overlap.dcm"), scan)
    with pytest.raises(ScanError, match="fractional, not binary"):
        read_mask(by_others(scan, [inner * 0.5], tmp_path / "f.dcm", "FRACTIONAL"), scan)


def test_a_segmentation_of_another_scan_is_refused(tmp_path):
    made.classic(VOLUME, tmp_path / "s")
    scan = open_scan(tmp_path / "s")
    (path,) = write_mask(LABELS, scan, tmp_path / "mask.dcm")
    for k, keys in enumerate(
        ({"origin": (0, 0, 0)}, {"pixel": (0.9, 0.7)}, {"directions": ((0, 1, 0), (1, 0, 0))})
    ):
        made.classic(VOLUME, tmp_path / f"{k}", **keys)
        with pytest.raises(ScanError, match="another grid"):
            read_mask(path, open_scan(tmp_path / f"{k}"))
    with pytest.raises(ScanError, match="no segmentation"):
        read_mask(scan.path, scan)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ScanError, match=r"cut short|cannot be read"):
        read_mask(path, scan)


def test_what_can_be_no_segmentation_is_told_before_anything_is_computed(tmp_path, monkeypatch):
    import nibabel as nib

    nib.save(nib.Nifti1Image(VOLUME, np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(ScanError, match="the scan is none"):
        mask_target(open_scan(tmp_path / "a.nii.gz"), tmp_path, "mask", "dicom-seg")
    made.classic(VOLUME, tmp_path / "s", FrameOfReferenceUID=None)
    scan = open_scan(tmp_path / "s")
    with pytest.raises(ScanError, match="lacks FrameOfReferenceUID"):
        write_mask(LABELS, scan, tmp_path / "mask.dcm")
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ScanError, match=r"highdicom is not installed.*napari-grata\[dicom\]"):
        mask_target(scan, tmp_path, "mask", "dicom-seg")
