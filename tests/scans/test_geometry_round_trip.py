"""Volumes are shown anatomically, and masks go back onto the very voxels of the file."""

import gzip
import struct
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest

from napari_grata.scans import open_scan, read_mask, write_mask

SHAPE = (7, 5, 4)


def rotation(x, y, z):
    """Rotation matrix from three angles in degrees."""
    cx, cy, cz = np.cos(np.radians([x, y, z]))
    sx, sy, sz = np.sin(np.radians([x, y, z]))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def affine_of(matrix, origin=(-11.5, 23.25, 4.0)):
    affine = np.eye(4)
    affine[:3, :3] = matrix
    affine[:3, 3] = origin
    return affine


OBLIQUE = rotation(12, -7, 20) @ np.diag([0.9, 1.1, 2.5])
SHEARED = OBLIQUE @ np.array([[1, 0.15, 0], [0, 1, 0.2], [0, 0, 1]])
AFFINES = {
    "RAS": affine_of(np.diag([0.9, 1.1, 2.5])),
    "LPS": affine_of(np.diag([-0.9, -1.1, 2.5])),
    "oblique": affine_of(OBLIQUE),
    "sheared": affine_of(SHEARED),
    "permuted": affine_of(np.diag([0.9, 1.1, 2.5])[[2, 0, 1]] * [[1], [-1], [1]]),
    "permuted and oblique": affine_of(OBLIQUE[[1, 2, 0]]),
}
TYPES = {
    "uint8": (np.uint8, None, None),
    "int16": (np.int16, None, None),
    "int16 with slope": (np.int16, 0.25, -7.0),
    "uint8 with slope": (np.uint8, 3.0, 100.0),
    "float32": (np.float32, None, None),
    "float64": (np.float64, None, None),
}


def phantom(shape=SHAPE):
    """Every voxel has a value of its own: any flip or swap shows."""
    return np.arange(int(np.prod(shape))).reshape(shape)


def write(path, stored, affine, *, slope=None, inter=None, codes=(1, 2), header=None):
    """Write a NIfTI file with exactly these stored values and this scaling."""
    image = nib.Nifti1Image(stored, affine, header)
    image.set_sform(affine, codes[1])
    image.set_qform(affine, codes[0], strip_shears=True)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    if slope is not None:
        opener = gzip.open if path.name.endswith(".gz") else open
        with opener(path, "rb") as file:
            content = bytearray(file.read())
        content[112:120] = struct.pack("<ff", slope, inter)  # scl_slope, scl_inter
        with opener(path, "wb") as file:
            file.write(bytes(content))


def world_of(affine, index):
    return affine[:3, :3] @ np.asarray(index) + affine[:3, 3]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("orientation", AFFINES)
def test_a_mask_comes_back_on_the_files_own_voxels(tmp_path, orientation, dtype, suffix):
    kind, slope, inter = TYPES[dtype]
    affine = AFFINES[orientation]
    source = tmp_path / f"scan{suffix}"
    write(source, phantom().astype(kind), affine, slope=slope, inter=inter)
    original = nib.load(source)
    truth = np.asanyarray(original.dataobj)

    scan = open_scan(source)
    assert scan.kind == "volume"
    assert np.allclose(np.stack([scan.read_slice(i) for i in range(scan.n_slices)]), scan.data)

    # Each displayed voxel is the file's voxel that the geometry names, with its true value.
    for index in product(*(range(n) for n in scan.mask_shape)):
        assert scan.data[index] == pytest.approx(truth[scan.geometry.source_index(index)])

    labels = phantom(scan.mask_shape).astype(np.uint8)
    (path,) = write_mask(labels, scan, tmp_path / "mask.nii.gz")
    mask = nib.load(path)
    assert mask.shape == original.shape
    assert mask.get_data_dtype() == np.uint8
    assert np.array_equal(mask.affine, original.affine)
    for field in ("pixdim", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z"):
        assert np.array_equal(mask.header[field], original.header[field]), field
    for field in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "xyzt_units", "dim"):
        assert np.array_equal(mask.header[field], original.header[field]), field
    written = np.asanyarray(mask.dataobj)
    for index in product(*(range(n) for n in scan.mask_shape)):
        assert written[scan.geometry.source_index(index)] == labels[index]
    assert np.array_equal(read_mask(path, scan), labels)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("signs", list(product((1, -1), repeat=3)))
def test_every_axis_order_and_direction_is_shown_the_same_way(tmp_path, order, signs):
    body = phantom((4, 5, 6)).astype(np.int16)  # right, anterior, superior
    stored = body.transpose(order)[tuple(slice(None, None, s) for s in signs)]
    matrix = np.zeros((3, 3))
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        matrix[world, axis] = sign * (1.0, 2.0, 3.0)[world]
    write(tmp_path / "scan.nii", stored, affine_of(matrix))
    scan = open_scan(tmp_path / "scan.nii")
    # Slices towards superior, rows towards posterior, columns towards the patient's left.
    assert np.array_equal(scan.data, body.transpose(2, 1, 0)[:, ::-1, ::-1])
    assert scan.geometry.spacing == (3.0, 2.0, 1.0)
    assert scan.slice_spacing == (2.0, 1.0)
    assert scan.slice_thickness == 3.0
    assert scan.geometry.axis_labels == ("superior", "posterior", "left")
    assert scan.geometry.units == ("mm", "mm", "mm")
    assert scan.slice_name(2) == "axial 3"


@pytest.mark.parametrize("orientation", AFFINES)
def test_displayed_voxels_keep_their_place_in_the_patient(tmp_path, orientation):
    affine = AFFINES[orientation]
    write(tmp_path / "scan.nii", phantom().astype(np.int16), affine)
    scan = open_scan(tmp_path / "scan.nii")
    stored = nib.load(tmp_path / "scan.nii").affine
    for index in product(*(range(n) for n in scan.mask_shape)):
        place = world_of(scan.geometry.display_affine, index)
        assert place == pytest.approx(world_of(stored, scan.geometry.source_index(index)))
    # Mostly towards superior, posterior, left, however oblique.
    step = scan.geometry.display_affine[:3, :3]
    assert step[2, 0] > 0
    assert step[1, 1] < 0
    assert step[0, 2] < 0
    assert np.allclose(np.linalg.norm(step, axis=0), scan.geometry.spacing, rtol=1e-5)


def test_trailing_unit_axes_are_hidden_and_written_back(tmp_path):
    # The header of the IBSR scans: 256 × 128 × 256 × 1, only an sform, units unknown.
    stored = np.zeros((256, 128, 256, 1), np.int16)
    stored[40, 30, 200, 0] = 99
    image = nib.Nifti1Image(stored, np.diag([-0.9375, 1.5, 0.9375, 1]))
    image.header["qform_code"], image.header["sform_code"] = 0, 1
    image.header["pixdim"][4] = 0
    nib.save(image, tmp_path / "scan.nii.gz")
    scan = open_scan(tmp_path / "scan.nii.gz")
    assert scan.kind == "volume"
    assert scan.data.shape == (256, 128, 256)
    place = tuple(int(a[0]) for a in np.nonzero(scan.data))
    assert place == (200, 128 - 1 - 30, 40)
    labels = scan.empty_mask()
    labels[place] = 3
    (path,) = write_mask(labels, scan, tmp_path / "mask.nii.gz")
    mask = nib.load(path)
    assert mask.shape == (256, 128, 256, 1)
    assert np.asanyarray(mask.dataobj)[40, 30, 200, 0] == 3
    assert np.count_nonzero(np.asanyarray(mask.dataobj)) == 1
    assert (mask.header["qform_code"], mask.header["sform_code"]) == (0, 1)
    assert mask.header["pixdim"][4] == 0


@pytest.mark.parametrize("extra", [(), (1,), (1, 1)])
def test_a_series_keeps_time_first_and_writes_back(tmp_path, extra):
    stored = phantom((4, 5, 6, 3, *extra)).astype(np.int16)
    header = nib.Nifti1Header()
    image = nib.Nifti1Image(stored, AFFINES["LPS"], header)
    image.header.set_zooms((0.9, 1.1, 2.5, 0.04, *extra))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "cine.nii.gz")
    scan = open_scan(tmp_path / "cine.nii.gz")
    assert scan.kind == "series"
    assert scan.data.shape == (3, 6, 5, 4)
    assert np.array_equal(scan.data, stored.reshape(4, 5, 6, 3).transpose(3, 2, 1, 0))
    assert scan.geometry.units == ("second", "mm", "mm", "mm")
    assert scan.geometry.spacing == pytest.approx((0.04, 2.5, 1.1, 0.9))
    assert (scan.n_slices, scan.n_cases) == (18, 3)
    assert scan.slice_position(7) == (1, 1)
    assert scan.slice_index((1, 1)) == 7
    assert scan.case_of(7) == 1
    assert scan.slice_name(7) == "time 2, axial 2"
    assert np.array_equal(scan.read_slice(7), stored.reshape(4, 5, 6, 3)[:, :, 1, 1].T)
    labels = (np.asarray(scan.data) % 200).astype(np.uint8)
    (path,) = write_mask(labels, scan, tmp_path / "mask.nii.gz")
    assert np.array_equal(np.asanyarray(nib.load(path).dataobj), stored % 200)
    assert np.allclose(nib.load(path).header.get_zooms(), image.header.get_zooms())


@pytest.mark.parametrize(
    ("shape", "labels", "plane"),
    [
        ((6, 5, 1), ("posterior", "left"), "axial"),
        ((6, 1, 5), ("inferior", "left"), "coronal"),
        ((1, 6, 5), ("inferior", "posterior"), "sagittal"),
        ((6, 5), ("posterior", "left"), "axial"),
    ],
)
def test_a_single_slice_is_shown_in_its_own_plane(tmp_path, shape, labels, plane):
    stored = phantom(shape).astype(np.int16)
    write(tmp_path / "slice.nii.gz", stored, affine_of(np.diag([1.0, 2.0, 3.0])))
    scan = open_scan(tmp_path / "slice.nii.gz")
    assert scan.kind == "image"
    assert scan.geometry.axis_labels == labels
    assert scan.geometry.plane == plane
    assert (scan.leading_shape, scan.n_slices) == ((), 1)
    # Superior and anterior are up, the patient's right on the left.
    assert np.array_equal(scan.data, np.squeeze(stored).T[::-1, ::-1])
    labels_shown = (np.asarray(scan.data) % 7).astype(np.uint8)
    (path,) = write_mask(labels_shown, scan, tmp_path / "mask.nii.gz")
    assert nib.load(path).shape == shape
    assert np.array_equal(np.asanyarray(nib.load(path).dataobj), stored % 7)


@pytest.mark.parametrize(("unit", "factor"), [("micron", 0.001), ("meter", 1000.0)])
def test_spacing_is_told_in_millimetres_whatever_the_files_unit(tmp_path, unit, factor):
    image = nib.Nifti1Image(phantom().astype(np.int16), np.diag([2.0, 3.0, 4.0, 1]))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "scan.nii")
    scan = open_scan(tmp_path / "scan.nii")
    assert scan.slice_spacing == pytest.approx((3 * factor, 2 * factor))
    assert scan.slice_thickness == pytest.approx(4 * factor)
    assert np.array_equal(scan.geometry.affine, np.diag([2.0, 3.0, 4.0, 1]))


def test_uncompressed_files_are_mapped_and_scaled_ones_stay_lazy(tmp_path):
    write(tmp_path / "plain.nii", phantom().astype(np.int16), AFFINES["LPS"])
    assert isinstance(open_scan(tmp_path / "plain.nii").data, np.memmap)
    write(tmp_path / "scaled.nii", phantom().astype(np.int16), AFFINES["LPS"], slope=0.5, inter=3.0)
    scan = open_scan(tmp_path / "scaled.nii")
    assert hasattr(scan.data, "dask")
    assert scan.read_slice(1)[0, 0] == phantom()[0, 0, 1] * 0.5 + 3


def test_whole_numbers_are_not_read_through_when_a_scan_is_opened(tmp_path, monkeypatch):
    from napari_grata.scans import Scan

    looked_at = []
    peek = Scan.peek
    monkeypatch.setattr(Scan, "peek", lambda scan, i: looked_at.append(i) or peek(scan, i))
    write(tmp_path / "scaled.nii", phantom().astype(np.int16), AFFINES["LPS"], slope=0.5, inter=3)
    open_scan(tmp_path / "scaled.nii")
    assert looked_at == [2]


def test_a_header_without_orientation_still_shows_and_round_trips(tmp_path):
    image = nib.Nifti1Image(phantom().astype(np.int16), None)
    nib.save(image, tmp_path / "scan.nii.gz")
    scan = open_scan(tmp_path / "scan.nii.gz")
    assert any("how the patient lies" in notice for notice in scan.notices)
    labels = (np.asarray(scan.data) % 9).astype(np.uint8)
    (path,) = write_mask(labels, scan, tmp_path / "mask.nii.gz")
    assert np.array_equal(np.asanyarray(nib.load(path).dataobj), phantom() % 9)
    assert np.array_equal(read_mask(path, scan), labels)


def test_a_singular_sform_is_noticed_and_masks_still_fit(tmp_path):
    image = nib.Nifti1Image(phantom().astype(np.int16), np.eye(4))
    image.header["sform_code"] = 1
    image.header["srow_z"] = 0
    with (tmp_path / "scan.nii").open("wb") as file:
        image.header.set_data_offset(352)
        image.header.write_to(file)
        file.write(phantom().astype(np.int16).tobytes(order="F"))
    scan = open_scan(tmp_path / "scan.nii")
    assert any("not usable" in notice for notice in scan.notices)
    labels = (np.asarray(scan.data) % 9).astype(np.uint8)
    (path,) = write_mask(labels, scan, tmp_path / "mask.nii.gz")
    mask = nib.load(path)
    assert np.array_equal(np.asanyarray(mask.dataobj), phantom() % 9)
    assert mask.header["sform_code"] == 1
    assert not mask.header["srow_z"].any()


def test_big_endian_and_nifti2_files_round_trip(tmp_path):
    stored = phantom().astype(">i2")
    big = nib.Nifti1Image(stored, AFFINES["oblique"], nib.Nifti1Header(endianness=">"))
    nib.save(big, tmp_path / "big.nii.gz")
    second = nib.Nifti2Image(phantom().astype(np.int16), AFFINES["oblique"])
    nib.save(second, tmp_path / "second.nii.gz")
    for name, cls in (("big", nib.Nifti1Image), ("second", nib.Nifti2Image)):
        scan = open_scan(tmp_path / f"{name}.nii.gz")
        labels = (np.asarray(scan.data) % 90).astype(np.uint8)
        (path,) = write_mask(labels, scan, tmp_path / f"{name}-mask.nii.gz")
        mask = nib.load(path)
        assert type(mask) is cls
        assert np.array_equal(np.asanyarray(mask.dataobj), phantom() % 90)
        assert np.array_equal(mask.affine, nib.load(tmp_path / f"{name}.nii.gz").affine)


def test_mask_layers_carry_the_true_affine_and_a_copy_of_the_header(tmp_path):
    write(tmp_path / "scan.nii.gz", phantom().astype(np.int16), AFFINES["sheared"])
    scan = open_scan(tmp_path / "scan.nii.gz")
    original = nib.load(tmp_path / "scan.nii.gz")
    for arguments in (scan.layer_kwargs(), scan.mask_layer_kwargs()):
        metadata = arguments["metadata"]
        assert np.array_equal(metadata["affine"], original.affine)
        assert metadata["header"] == original.header
        assert metadata["napari_grata"]["scan"] is scan
        assert len(arguments["scale"]) == len(arguments["units"]) == 3
    scan.mask_layer_kwargs()["metadata"]["affine"][:] = 0
    assert np.array_equal(scan.geometry.affine, original.affine)


@pytest.mark.parametrize("cls", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_no_text_of_the_scans_header_comes_into_a_mask(tmp_path, cls, suffix):
    header = cls.header_class()
    for key in ("descrip", "db_name", "intent_name", "aux_file"):
        if key in header:
            header[key] = b"DOE^JOHN"
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JOHN, 1970-01-01"))
    nib.save(cls(phantom().astype(np.int16), AFFINES["oblique"], header), tmp_path / "scan.nii")
    content = (tmp_path / "scan.nii").read_bytes()
    # Bytes of the header that mean nothing have room for a name, too.
    content = bytearray(content)
    if cls is nib.Nifti1Image:
        content[4:12] = b"DOE^JOHN"
    (tmp_path / "scan.nii").write_bytes(content)
    scan = open_scan(tmp_path / "scan.nii")
    (path,) = write_mask(scan.empty_mask() + 2, scan, tmp_path / f"mask{suffix}")
    mask = path.read_bytes()
    assert b"mask" not in mask, "gzip keeps names"
    mask = gzip.decompress(mask) if suffix.endswith("gz") else mask
    assert b"DOE" not in mask
    assert type(nib.load(path)) is cls
    assert np.array_equal(nib.load(path).affine, nib.load(tmp_path / "scan.nii").affine)


def test_the_same_mask_is_the_same_file(tmp_path):
    write(tmp_path / "scan.nii", phantom().astype(np.int16), AFFINES["RAS"])
    scan = open_scan(tmp_path / "scan.nii")
    first, second = (
        write_mask(scan.empty_mask() + 2, scan, tmp_path / name)[0].read_bytes()
        for name in ("a.nii.gz", "b.nii.gz")
    )
    assert first == second


def test_masks_leave_out_extensions_and_the_scans_intensity_scaling(tmp_path):
    header = nib.Nifti1Header()
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe, 1970-01-01"))
    header["cal_max"] = 1000
    stored = phantom().astype(np.int16)
    write(tmp_path / "scan.nii", stored, AFFINES["RAS"], slope=0.5, inter=9.0, header=header)
    assert nib.load(tmp_path / "scan.nii").header.extensions
    scan = open_scan(tmp_path / "scan.nii")
    (path,) = write_mask(scan.empty_mask() + 2, scan, tmp_path / "mask.nii")
    mask = nib.load(path)
    assert not mask.header.extensions
    assert (mask.dataobj.slope, mask.dataobj.inter) == (1, 0)
    assert mask.header["cal_max"] == 0
    assert (np.asanyarray(mask.dataobj) == 2).all()
    assert b"Jane Doe" not in path.read_bytes()
