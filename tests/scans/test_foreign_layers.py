"""Layers that napari or another plugin opened: masks still land on the file's own voxels."""

from itertools import permutations, product

import dask.array as da
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from napari_grata.scans import open_scan, read_mask, scan_from_array, write_mask

STORED = np.random.default_rng(3).integers(0, 900, (5, 6, 7)).astype(np.int16)
OBLIQUE = np.array(
    [[-0.9, 0.1, 0.05, 40], [0.1, 1.1, -0.2, -30], [0.0, 0.2, 2.4, 12], [0, 0, 0, 1]]
)
ARRANGEMENTS = [
    (order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)
]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("foreign") / "case.nii.gz"
    nib.save(nib.Nifti1Image(STORED, OBLIQUE), path)
    return path


@pytest.mark.parametrize(("order", "signs"), ARRANGEMENTS)
def test_however_a_plugin_turns_the_file_masks_fit_its_voxels(file, tmp_path, order, signs):
    def arrange(array):
        return array.transpose(order)[tuple(slice(None, None, s) for s in signs)]

    layer = arrange(STORED).astype(np.float32)
    scan = scan_from_array(layer, name="case", path=file, spacing=(3, 2, 1), metadata={"a": 1})
    labels = (layer % 11).astype(np.uint8)
    (path,) = write_mask(labels, scan, tmp_path / "mask.nii.gz")
    assert np.array_equal(np.asanyarray(nib.load(path).dataobj), STORED % 11)
    assert np.array_equal(nib.load(path).affine, nib.load(file).affine)
    assert np.array_equal(read_mask(path, scan), labels)
    # The layer's own scale stays, so that masks lie over it; the true spacing is the file's.
    assert scan.mask_layer_kwargs()["scale"] == (3, 2, 1)
    assert scan.mask_layer_kwargs()["metadata"]["a"] == 1
    sizes = nib.affines.voxel_sizes(OBLIQUE)
    assert scan.geometry.spacing == pytest.approx([sizes[axis] for axis in order])


def test_the_plane_of_another_plugins_slices_is_known_and_told(file):
    sagittal = scan_from_array(STORED, name="as stored", path=file)
    assert sagittal.geometry.plane == "sagittal"
    assert "sagittal slices" in sagittal.notices[0]
    axial = scan_from_array(STORED.T, name="as SimpleITK has it", path=file)
    assert axial.geometry.plane == "axial"
    assert "turned or mirrored" in axial.notices[0], "rows run to the front in this order"


def test_a_lazy_layer_and_unit_axes_are_placed_too(tmp_path):
    path = tmp_path / "case.nii.gz"
    nib.save(nib.Nifti1Image(STORED[..., np.newaxis], OBLIQUE), path)
    for layer in (
        da.from_array(STORED.T, chunks=(1, 6, 5)),
        STORED[..., np.newaxis],
        STORED.T[np.newaxis],
    ):
        scan = scan_from_array(layer, name="case", path=path)
        labels = np.asarray(layer % 11).astype(np.uint8)
        (mask,) = write_mask(labels, scan, tmp_path / "mask.nii.gz", overwrite=True)
        assert nib.load(mask).shape == (5, 6, 7, 1)
        assert np.array_equal(np.asanyarray(nib.load(mask).dataobj)[..., 0], STORED % 11)


def test_scaled_series_are_placed_by_their_true_values(tmp_path):
    path = tmp_path / "cine.nii"
    stored = np.random.default_rng(5).normal(50, 9, (5, 6, 7, 3))
    image = nib.Nifti1Image(stored, OBLIQUE)
    image.set_data_dtype(np.int16)
    nib.save(image, path)
    true = nib.load(path).get_fdata()
    layer = true.transpose(3, 2, 1, 0)
    scan = scan_from_array(layer, name="cine", path=path)
    assert (scan.kind, scan.geometry.units[0]) == ("series", "second")
    labels = (layer > 50).astype(np.uint8)
    (mask,) = write_mask(labels, scan, tmp_path / "mask.nii.gz")
    assert np.array_equal(np.asanyarray(nib.load(mask).dataobj), true > 50)


def test_a_layer_changed_since_it_was_opened_claims_nothing(file, tmp_path):
    changed = STORED.T.copy()
    changed[2, 3, 1] += 500
    scan = scan_from_array(changed, name="edited", path=file)
    assert scan.geometry.affine is None
    assert scan.geometry.header is None
    cropped = scan_from_array(STORED.T[:, 1:], name="cropped", path=file)
    assert cropped.geometry.header is None
    labels = (changed % 5).astype(np.uint8)
    (path,) = write_mask(labels, scan, tmp_path / "mask.nii.gz")
    assert np.array_equal(np.asanyarray(nib.load(path).dataobj), labels)
    assert np.array_equal(read_mask(path, scan), labels)


def test_a_layer_whose_file_is_gone_or_broken_still_works(tmp_path):
    for path in (tmp_path / "gone.nii.gz", tmp_path / "broken.nii.gz"):
        scan = scan_from_array(STORED, name="x", path=path)
        assert scan.geometry.header is None
        (tmp_path / "broken.nii.gz").write_bytes(b"nonsense")


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("alpha", [False, True])
def test_photographs_that_napari_opened_keep_their_stored_grid(tmp_path, orientation, alpha):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 4 if alpha else 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(tmp_path / "eye.png", exif=exif)
    ours = open_scan(tmp_path / "eye.png")
    labels = (pixels[..., 0] % 3).astype(np.uint8)
    for layer, shown in (
        (pixels, labels),
        (np.asarray(ours.data), ours.geometry.to_display(labels)),
    ):
        scan = scan_from_array(layer, name="eye", rgb=True, path=tmp_path / "eye.png")
        assert (scan.kind, scan.slice_shape(0)) == ("photograph", layer.shape[:2])
        assert scan.read_slice(0).shape[2] == 3
        (mask,) = write_mask(shown, scan, tmp_path / "mask.png", overwrite=True)
        with Image.open(mask) as image:
            assert np.array_equal(np.array(image), labels)
            assert image.getexif().get(274, 1) == orientation


def test_negative_scales_stay_on_the_layers_but_not_in_the_spacing(file):
    # napari-nifti 0.0.20 mirrors its layers by negative scales.
    for path in (file, None):
        scan = scan_from_array(STORED.T, name="case", path=path, spacing=(-2.4, -1.1, -0.9))
        assert scan.mask_layer_kwargs()["scale"] == (-2.4, -1.1, -0.9)
        assert min(*scan.slice_spacing, scan.slice_thickness) > 0


def test_slices_mirrored_inside_are_told(file):
    shown = np.asarray(open_scan(file).data)
    assert scan_from_array(shown, name="as ours", path=file).notices == ()
    turned = scan_from_array(shown[:, ::-1, ::-1], name="turned", path=file)
    assert "turned or mirrored" in turned.notices[0]
    assert scan_from_array(shown[::-1], name="from above", path=file).notices == ()


def test_a_filtered_copy_is_another_scan_on_the_same_grid(file, tmp_path):
    scan = open_scan(file)
    assert scan.holds(scan.data)
    assert scan.holds(np.array(scan.data))
    filtered = np.asarray(scan.data) * 0.5
    assert not scan.holds(filtered)
    assert not scan.holds(filtered[:, 1:])
    copy = scan_from_array(filtered, name="filtered", spacing=(3, 2, 1), like=scan)
    assert np.array_equal(copy.read_slice(2), filtered[2])
    labels = (np.asarray(scan.data) % 11).astype(np.uint8)
    (path,) = write_mask(labels, copy, tmp_path / "mask.nii.gz")
    assert np.array_equal(np.asanyarray(nib.load(path).dataobj), STORED % 11)
    other = scan_from_array(filtered[:, 1:], name="cropped", like=scan)
    assert other.geometry.header is None


def test_a_series_without_a_file_has_time_last_in_its_mask(tmp_path):
    data = np.random.default_rng(1).normal(size=(3, 4, 5, 6))
    scan = scan_from_array(data, name="cine", spacing=(0.1, 8, 1.5, 1.25))
    labels = (data > 0).astype(np.uint8)
    (path,) = write_mask(labels, scan, tmp_path / "mask.nii.gz")
    mask = nib.load(path)
    assert np.array_equal(np.asanyarray(mask.dataobj), np.moveaxis(labels, 0, -1))
    assert mask.header.get_zooms() == pytest.approx((8, 1.5, 1.25, 0.1))
    assert (mask.header["sform_code"], mask.header["qform_code"]) == (0, 0)
    assert np.array_equal(read_mask(path, scan), labels)
    assert (scan.slice_spacing, scan.slice_thickness) == ((1.5, 1.25), 8)


@pytest.mark.parametrize("wrong", [np.zeros((4, 4)), np.full((4, 4), np.nan)])
def test_an_affine_without_three_axes_is_left_aside(tmp_path, wrong):
    scan = scan_from_array(STORED, name="x", affine=wrong, spacing=(3, 2, 1))
    assert scan.geometry.affine is None
    (path,) = write_mask((STORED % 4).astype(np.uint8), scan, tmp_path / "mask.nii.gz")
    assert nib.load(path).header.get_zooms() == (3, 2, 1)


def test_an_affine_given_with_an_array_is_written(tmp_path):
    scan = scan_from_array(STORED, name="x", affine=OBLIQUE)
    (path,) = write_mask((STORED % 4).astype(np.uint8), scan, tmp_path / "mask.nii.gz")
    assert np.allclose(nib.load(path).affine, OBLIQUE, atol=1e-5)
    assert np.array_equal(np.asanyarray(nib.load(path).dataobj), STORED % 4)
