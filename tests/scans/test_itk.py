"""NRRD and MetaImage, there and back: geometry by SimpleITK, segments by 3D Slicer's names."""

from __future__ import annotations

import sys

import nibabel as nib
import numpy as np
import pytest

itk = pytest.importorskip("SimpleITK", reason="needs the extra itk")

from napari_grata.scans import ScanError, open_scan, read_mask, write_mask  # noqa: E402
from napari_grata.scans.masks import mask_target  # noqa: E402
from napari_grata.scans.readers import find_scans  # noqa: E402
from napari_grata.scans.scan import Label  # noqa: E402

VOLUME = np.random.default_rng(0).integers(0, 1000, (5, 8, 11)).astype(np.int16)
OBLIQUE = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
WAYS = {"axial": np.eye(3), "flipped": np.diag([-1.0, -1.0, 1.0]), "oblique": OBLIQUE}
SUFFIXES = (".nrrd", ".mha", ".mhd")


def write(path, array=VOLUME, direction=OBLIQUE, origin=(3, -40, 12.5)):
    """By SimpleITK: (slice, row, column)."""
    image = itk.GetImageFromArray(array)
    if array.ndim == 3:
        image.SetSpacing((0.7, 0.8, 2.5))
        image.SetOrigin(origin)
        image.SetDirection(direction.ravel().tolist())
    itk.WriteImage(image, str(path))
    return path


def affine_of(image):
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1, -1, 1, 1]) @ affine


def refused(path, says):
    with pytest.raises(ScanError, match=says) as caught:
        open_scan(path)
    assert caught.value.hint
    assert "itk::" not in str(caught.value)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_scan_lies_where_simpleitk_says(tmp_path, suffix, way):
    path = write(tmp_path / f"a{suffix}", direction=WAYS[way])
    scan = open_scan(path)
    assert not scan.notices
    np.testing.assert_allclose(scan.geometry.affine, affine_of(itk.ReadImage(str(path))), atol=1e-6)
    on_file = np.asarray(scan.geometry.to_source(np.asarray(scan.data)))
    np.testing.assert_array_equal(on_file.transpose(2, 1, 0), VOLUME)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("suffix", [".nrrd", ".seg.nrrd", ".mha", ".mhd", ".nii.gz"])
def test_a_mask_lies_on_its_scan(tmp_path, suffix, way):
    source = write(tmp_path / "a.nrrd", direction=WAYS[way])
    scan = open_scan(source)
    mask = (np.asarray(scan.data) % 4).astype(np.uint8)
    written = write_mask(mask, scan, tmp_path / f"mask{suffix}")
    assert len(written) == (2 if suffix == ".mhd" else 1)
    image = itk.ReadImage(str(written[0]))
    np.testing.assert_allclose(affine_of(image), scan.geometry.affine, atol=1e-4)
    np.testing.assert_array_equal(itk.GetArrayFromImage(image), VOLUME % 4)
    np.testing.assert_array_equal(read_mask(written[0], scan), mask)


def test_a_sheared_nifti_scan_keeps_its_place_in_nrrd(tmp_path):
    affine = np.array([[-1, 0, 0, 5], [0, 2, 0.8, 6], [0, 0, 2.5, 7], [0, 0, 0, 1.0]])
    nib.save(nib.Nifti1Image(VOLUME, affine), tmp_path / "a.nii.gz")
    scan = open_scan(tmp_path / "a.nii.gz")
    mask = (np.asarray(scan.data) % 4).astype(np.uint8)
    (path,) = write_mask(mask, scan, tmp_path / "mask.nrrd")
    np.testing.assert_allclose(affine_of(itk.ReadImage(str(path))), affine, atol=1e-5)
    np.testing.assert_array_equal(read_mask(path, scan), mask)


def test_a_segmentation_for_3d_slicer_has_names_and_colours(tmp_path):
    scan = open_scan(write(tmp_path / "a.nrrd"))
    legend = {1: Label("white matter", "#FF8000"), 3: Label("csf")}
    mask = np.where(np.asarray(scan.data) % 2, 1, 0).astype(np.uint8)
    target = mask_target(scan, tmp_path, "mask", "seg-nrrd")
    write_mask(mask, scan, target, legend=legend)
    image = itk.ReadImage(str(target))
    told = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    assert told["Segment0_Name"] == "white matter"
    assert told["Segment0_Color"] == "1 0.501961 0"
    assert (told["Segment1_Name"], told["Segment1_LabelValue"]) == ("csf", "3")
    assert told["Segmentation_MasterRepresentation"] == "Binary labelmap"
    assert find_scans([tmp_path / "a.nrrd", target]) == [tmp_path / "a.nrrd"]


def test_a_picture_without_a_place_has_a_mask_too(tmp_path):
    scan = open_scan(write(tmp_path / "a.mha", VOLUME[0]))
    assert scan.kind == "image"
    mask = (np.asarray(scan.data) % 2).astype(np.uint8)
    (path,) = write_mask(mask, scan, tmp_path / "mask.mha")
    np.testing.assert_array_equal(read_mask(path, scan), mask)


def test_a_mask_on_another_grid_is_refused(tmp_path):
    scan = open_scan(write(tmp_path / "a.nrrd"))
    moved = open_scan(write(tmp_path / "b.nrrd", origin=(0, 0, 0)))
    (path,) = write_mask(scan.empty_mask(), scan, tmp_path / "mask.nrrd")
    with pytest.raises(ScanError, match="another grid"):
        read_mask(path, moved)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}")
    if suffix == ".mhd":
        (tmp_path / "a.raw").unlink()
        refused(path, "a.raw is not beside it")
    else:
        path.write_bytes(path.read_bytes()[:-200])
        refused(path, "cannot be read")
    path.write_bytes(b"Dear colleague " * 30)
    refused(path, "cannot be read")
    path.write_bytes(b"")
    refused(path, "0 bytes")


def test_what_is_no_scan(tmp_path):
    refused(write(tmp_path / "a.nrrd", np.zeros_like(VOLUME)), "every voxel is 0")
    colour = itk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True)
    itk.WriteImage(colour, str(tmp_path / "c.nrrd"))
    refused(tmp_path / "c.nrrd", "holds 3 values")
    itk.WriteImage(itk.Image([3, 4, 5, 6], itk.sitkUInt8), str(tmp_path / "d.mha"))
    refused(tmp_path / "d.mha", "4 axes")


def test_absurd_sizes_and_voxels_elsewhere_are_refused_before_anything_is_read(tmp_path):
    path = write(tmp_path / "a.mhd")
    head = path.read_text()
    path.write_text(head.replace("DimSize = 11 8 5", "DimSize = 60000 60000 60000"))
    refused(path, "too large: 60000 × 60000 × 60000")
    for other in ("../a.raw", "/etc/passwd", "LIST", "%03d.raw 1 5 1"):
        path.write_text(head.replace("a.raw", other))
        refused(path, "in several files, or in another folder")


def test_without_simpleitk_the_extra_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "a.nrrd")
    nib.save(nib.Nifti1Image(VOLUME, np.eye(4)), tmp_path / "a.nii.gz")
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    refused(path, r"SimpleITK is not installed.*napari-grata\[itk\]")
    with pytest.raises(ScanError, match="SimpleITK is not installed"):
        mask_target(open_scan(tmp_path / "a.nii.gz"), tmp_path, "mask", "nrrd")


def test_formats_that_cannot_keep_a_photograph(tmp_path):
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "eye.png")
    scan = open_scan(tmp_path / "eye.png")
    for kind in ("nrrd", "seg-nrrd", "mha", "nifti"):
        with pytest.raises(ScanError, match="cannot be kept"):
            mask_target(scan, tmp_path, "mask", kind)
    with pytest.raises(ScanError, match=r"not written as jpeg.*Known are nifti"):
        mask_target(scan, tmp_path, "mask", "jpeg")
