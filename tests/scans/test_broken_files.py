"""Whatever is wrong with a file is said in words: what, where, what to do."""

import gzip
import struct
import zlib

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_grata.scans import ScanError, open_scan, read_mask, scan_from_array, write_mask

VOLUME = np.random.default_rng(0).integers(1, 999, (8, 9, 10)).astype(np.int16)
NOISE = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def nifti(path, array=VOLUME, affine=None):
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def patch(path, offset, content):
    data = bytearray(path.read_bytes())
    data[offset : offset + len(content)] = content
    path.write_bytes(bytes(data))


def refused(path, *, says):
    with pytest.raises(ScanError, match=says) as caught:
        open_scan(path)
    message = str(caught.value)
    assert path.name in message
    assert caught.value.hint, "an error without a hint leaves the person alone"
    assert str(path.parent.parent) not in message, "no folders higher up: they may name a patient"


def test_a_missing_file(tmp_path):
    refused(tmp_path / "nowhere.nii.gz", says="no such file")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.png", "a.jpg", "a.tif"])
def test_an_empty_file(tmp_path, name):
    (tmp_path / name).touch()
    refused(tmp_path / name, says="0 bytes")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.png", "a.jpg", "a.tif"])
def test_a_file_of_something_else(tmp_path, name):
    (tmp_path / name).write_bytes(b"This is a letter, not a picture. " * 40)
    refused(tmp_path / name, says="cannot be read")


@pytest.mark.parametrize("keep", [10, 200, 400, 900])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_truncated_volume(tmp_path, name, keep):
    path = nifti(tmp_path / name)
    path.write_bytes(path.read_bytes()[:keep])
    refused(path, says="cut short|cannot be read")


def test_a_damaged_compressed_volume(tmp_path):
    path = nifti(tmp_path / "a.nii.gz")
    patch(path, path.stat().st_size // 2, b"\xff" * 40)
    refused(path, says="cannot be read")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_a_truncated_photograph(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(NOISE).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path, says="breaks off|cut short|cannot be read")


def test_a_truncated_photograph_in_a_folder_is_named(tmp_path):
    folder = tmp_path / "centre"
    folder.mkdir()
    for name in ("a", "b", "c"):
        Image.fromarray(NOISE).save(folder / f"{name}.jpg")
    whole = (folder / "b.jpg").read_bytes()
    (folder / "b.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ScanError, match=r"b\.jpg: it breaks off"):
        open_scan(folder)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_absurd_sizes_are_refused_before_anything_is_allocated(tmp_path, name):
    path = nifti(tmp_path / name)
    content = gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_bytes()
    content = bytearray(content)
    content[40:56] = struct.pack("<8h", 4, 32767, 32767, 32767, 1000, 1, 1, 1)
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else bytes(content))
    refused(path, says="too large: 32767 × 32767 × 32767 × 1000")


def test_a_compressed_header_that_promises_more_than_deflate_can_hold(tmp_path):
    path = nifti(tmp_path / "a.nii.gz")
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[40:56] = struct.pack("<8h", 3, 1000, 1000, 20, 1, 1, 1, 1)
    path.write_bytes(gzip.compress(content))
    refused(path, says="cut short: the header promises 40,000,000 bytes")


def test_absurd_photographs_are_refused_before_anything_is_allocated(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(NOISE).save(path)
    patch(path, 16, struct.pack(">II", 60000, 60000))
    refused(path, says="too large|cannot be read")
    tifffile.imwrite(tmp_path / "b.tif", NOISE[..., 0])
    with tifffile.TiffFile(tmp_path / "b.tif", mode="r+") as file:
        for tag in ("ImageWidth", "ImageLength"):
            file.pages[0].tags[tag].overwrite(2_000_000)
    refused(tmp_path / "b.tif", says="too large|cannot be read")


def test_a_photograph_larger_than_its_file_can_hold_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, NOISE[..., 0], compression="zlib", metadata=None)
    for width, length, says in ((34, 13_893_653, "too large"), (34, 2_000_000, "cut short")):
        with tifffile.TiffFile(path, mode="r+") as file:
            file.pages[0].tags["ImageWidth"].overwrite(width)
            file.pages[0].tags["ImageLength"].overwrite(length)
        refused(path, says=says)


def test_a_tiff_that_unpacks_to_more_than_its_picture_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, NOISE[:8, :8].astype(np.uint16), photometric="rgb", compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as file:
        tags = file.pages[0].tags
        bomb = zlib.compress(bytes(2**22))
        place = path.stat().st_size
        tags["StripOffsets"].overwrite(place)
        tags["StripByteCounts"].overwrite(len(bomb))
    path.write_bytes(path.read_bytes()[:place].ljust(place, b"\0") + bomb)
    refused(path, says="unpack to more")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_a_truncated_deflate_tiff_is_told_in_words(tmp_path, dtype, keep):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, NOISE.astype(dtype), photometric="rgb", compression="zlib")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    refused(path, says="breaks off|cut short|cannot be read")


def test_a_tiff_of_which_a_strip_is_missing_is_not_shown_black_there(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, NOISE.astype(np.uint16), photometric="rgb", rowsperstrip=16)
    with tifffile.TiffFile(path, mode="r+") as file:
        counts = list(file.pages[0].tags["StripByteCounts"].value)
        file.pages[0].tags["StripByteCounts"].overwrite([*counts[:-1], 0])
    refused(path, says="parts of the picture are missing")


def test_half_precision_photographs_are_shown(tmp_path):
    values = np.random.default_rng(0).normal(size=(9, 13)).astype(np.float16)
    tifffile.imwrite(tmp_path / "a.tif", values)
    scan = open_scan(tmp_path / "a.tif")
    assert scan.data.dtype == np.float32
    assert np.array_equal(scan.data, values.astype(np.float32))


def test_damaged_masks_are_told_in_words(tmp_path):
    source = nifti(tmp_path / "a.nii.gz")
    scan = open_scan(source)
    (mask,) = write_mask(scan.empty_mask() + 1, scan, tmp_path / "m.nii.gz")
    patch(mask, mask.stat().st_size // 2, b"\xff" * 9)
    with pytest.raises(ScanError, match="cannot be read"):
        read_mask(mask, scan)
    Image.fromarray(NOISE).save(tmp_path / "eye.png")
    eye = open_scan(tmp_path / "eye.png")
    (mask,) = write_mask(eye.empty_mask() + NOISE[..., 0], eye, tmp_path / "m.png")
    patch(mask, mask.stat().st_size // 2, b"\xff" * 9)
    with pytest.raises(ScanError, match=r"damaged inside|cannot be read"):
        read_mask(mask, eye)


def test_masks_of_fractions_or_nan_are_refused(tmp_path):
    scan = open_scan(nifti(tmp_path / "a.nii.gz"))
    for value, says in ((0.5, "fractions"), (np.nan, "no numbers"), (300, "run from 0 to 300")):
        labels = np.zeros(VOLUME.shape, np.float32)
        labels[0, 0, 0] = value
        labels[1, 0, 0] = 0
        with pytest.raises(ScanError, match=says):
            read_mask(nifti(tmp_path / "m.nii.gz", labels), scan)


@pytest.mark.parametrize(
    ("slope", "inter"), [(1e-45, 0), (3e38, 0), (1e-38, -1024), (1.0, 1e38), (-3e38, 3e38)]
)
def test_scalings_beyond_what_can_be_shown_are_refused(tmp_path, slope, inter):
    path = nifti(tmp_path / "a.nii")
    patch(path, 112, struct.pack("<ff", slope, inter))
    refused(path, says="scaled by")


def test_values_that_float32_would_run_together_stay_apart(tmp_path):
    path = nifti(tmp_path / "a.nii")
    patch(path, 112, struct.pack("<ff", 1e-6, 1e3))
    scan = open_scan(path)
    assert np.asarray(scan.data).dtype == np.float64
    truth = nib.load(path).get_fdata()
    assert np.array_equal(scan.geometry.to_source(np.asarray(scan.data)), truth)
    patch(path, 112, struct.pack("<ff", 0.5, -1024.0))
    assert np.asarray(open_scan(path).data).dtype == np.float32


def test_values_beyond_all_bounds_are_refused(tmp_path):
    for largest in (1e38, 1e-38):
        values = np.zeros((4, 5, 6), np.float32)
        values[2, 2, 2] = largest
        refused(nifti(tmp_path / "a.nii.gz", values), says="which no picture can show")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_header_that_is_longer_than_the_file_is_not_allocated(tmp_path, name):
    path = nifti(tmp_path / name)
    content = gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_bytes()
    content = bytearray(content)
    content[108:112] = struct.pack("<f", 2.0**40)  # vox_offset
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else bytes(content))
    refused(path, says="cut short")


@pytest.mark.parametrize("apart", [0, 1e-30, 1e-12, 1e-6])
def test_axes_that_nearly_coincide_are_told_and_masks_still_fit(tmp_path, apart):
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    affine[:3, 1] = affine[:3, 0] + [0, apart, 0]
    image = nib.Nifti1Image(VOLUME, None)
    image.header["sform_code"] = 1
    for row, key in zip(affine, ("srow_x", "srow_y", "srow_z"), strict=False):
        image.header[key] = row
    with (tmp_path / "a.nii").open("wb") as file:
        image.header.set_data_offset(352)
        image.header.write_to(file)
        file.write(bytes(4) + VOLUME.tobytes(order="F"))
    scan = open_scan(tmp_path / "a.nii")
    assert "orientation is not usable" in scan.notices[0]
    labels = (np.asarray(scan.data) % 5).astype(np.uint8)
    (path,) = write_mask(labels, scan, tmp_path / "m.nii.gz")
    assert np.array_equal(read_mask(path, scan), labels)
    with gzip.open(path) as file:
        assert file.read()[280:328] == (tmp_path / "a.nii").read_bytes()[280:328]


@pytest.mark.parametrize("size", [1e-9, 1e9])
def test_voxels_of_no_size_are_refused(tmp_path, size):
    refused(nifti(tmp_path / "a.nii.gz", affine=np.diag([size, 1, 1, 1])), says="would measure")


@pytest.mark.parametrize("dims", [(3, 0, 9, 10), (3, -8, 9, 10), (0, 8, 9, 10)])
def test_sizes_of_zero_or_less(tmp_path, dims):
    path = nifti(tmp_path / "a.nii")
    patch(path, 40, struct.pack("<4h", *dims))
    refused(path, says="empty|cannot be read|neither a picture")


def test_a_constant_scan(tmp_path):
    refused(nifti(tmp_path / "a.nii.gz", np.full((4, 5, 6), 7, np.int16)), says="every voxel is 7")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "a.png")
    refused(tmp_path / "a.png", says="every voxel is 0")


def test_a_scan_of_nan(tmp_path):
    volume = np.full((4, 5, 6), np.nan, np.float32)
    refused(nifti(tmp_path / "a.nii.gz", volume), says="every voxel is NaN or infinite")
    volume[0, 0, 0] = 3
    refused(nifti(tmp_path / "b.nii.gz", volume), says="every voxel is 3")
    volume[3, 4, 5] = 4
    assert open_scan(nifti(tmp_path / "c.nii.gz", volume)).n_slices == 6


def test_content_in_the_first_slice_only_is_found(tmp_path):
    volume = np.zeros((4, 5, 60), np.uint8)
    volume[1, 1, 0] = 1
    assert open_scan(nifti(tmp_path / "a.nii", volume)).n_slices == 60


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.ones((3, 4, 5), np.complex64) * 1j, "complex"),
        (np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "colour"),
        (np.zeros((3, 4, 5, 2, 2), np.uint8), "neither a picture, a volume nor a series"),
        (np.zeros((30, 1, 1), np.uint8), "neither a picture, a volume nor a series"),
    ],
)
def test_files_that_hold_no_scan(tmp_path, array, says):
    refused(nifti(tmp_path / "a.nii.gz", array), says=says)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("a.mgz", "mri_convert"),
        ("a.img", r"\.nii\.gz"),
        ("a.txt", "NIfTI files"),
        ("a", "NIfTI files"),
    ],
)
def test_other_types_of_file_are_told_what_to_become(tmp_path, name, hint):
    (tmp_path / name).write_bytes(b"x" * 100)
    with pytest.raises(ScanError, match=f"not known.*{hint}"):
        open_scan(tmp_path / name)


def test_folders_without_photographs(tmp_path):
    for name in ("empty", "freesurfer", "nifti"):
        (tmp_path / name).mkdir()
    (tmp_path / "freesurfer" / "1.mgz").touch()
    nifti(tmp_path / "nifti" / "a.nii.gz")
    for name, hint in (
        ("empty", "Scans are"),
        ("freesurfer", "mri_convert"),
        ("nifti", "one by one"),
    ):
        with pytest.raises(ScanError, match=f"no photographs.*{hint}"):
            open_scan(tmp_path / name)


def test_arrays_that_are_no_scan():
    for array, says in (
        (np.zeros((4, 5, 6)), "every voxel is 0"),
        (np.arange(5.0), "neither a picture"),
        (np.zeros((2, 2, 2, 2, 2)), "neither a picture"),
        (np.ones((4, 4), complex), "complex"),
    ):
        with pytest.raises(ScanError, match=f"layer 1: .*{says}"):
            scan_from_array(array, name="layer 1")


def test_masks_are_refused_where_they_would_do_harm(tmp_path):
    source = nifti(tmp_path / "a.nii.gz")
    scan = open_scan(source)
    before = source.read_bytes()
    for overwrite in (False, True):
        with pytest.raises(ScanError, match="this is the scan itself"):
            write_mask(scan.empty_mask(), scan, source, overwrite=overwrite)
    (tmp_path / "link.nii.gz").symlink_to(source)
    with pytest.raises(ScanError, match="this is the scan itself"):
        write_mask(scan.empty_mask(), scan, tmp_path / "link.nii.gz", overwrite=True)
    assert source.read_bytes() == before
    (path,) = write_mask(scan.empty_mask(), scan, tmp_path / "mask.nii.gz")
    with pytest.raises(ScanError, match="already"):
        write_mask(scan.empty_mask(), scan, path)
    write_mask(scan.empty_mask() + 1, scan, path, overwrite=True)
    assert (np.asanyarray(nib.load(path).dataobj) == 1).all()


def test_masks_that_cannot_be_kept_are_refused_and_leave_nothing(tmp_path):
    scan = open_scan(nifti(tmp_path / "a.nii.gz"))
    target = tmp_path / "out" / "mask.nii.gz"
    target.parent.mkdir()
    for stack, says in (
        (np.zeros((3, 3, 3), np.uint8), "shape"),
        (scan.empty_mask().astype(np.float32), "whole numbers"),
        (scan.empty_mask().astype(np.int32) - 1, "from -1"),
    ):
        with pytest.raises(ScanError, match=says):
            write_mask(stack, scan, target)
    for name in ("mask.png", "mask.jpg", "mask"):
        with pytest.raises(ScanError, match=r"ends in \.nii\.gz"):
            write_mask(scan.empty_mask(), scan, target.with_name(name))
    assert list(target.parent.iterdir()) == []


def test_labels_beyond_255_are_kept(tmp_path):
    scan = open_scan(nifti(tmp_path / "a.nii.gz"))
    stack = scan.empty_mask().astype(np.int64)
    stack[1, 2, 3] = 300
    (path,) = write_mask(stack, scan, tmp_path / "mask.nii.gz")
    assert np.asanyarray(nib.load(path).dataobj).max() == 300
