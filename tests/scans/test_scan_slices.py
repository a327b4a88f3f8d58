"""Slices, cases, intensities and masks of a scan."""

import copy
import pickle
import threading

import nibabel as nib
import numpy as np
import pytest

from napari_grata.scans import ScanError, open_scan, read_mask, scan_from_array, write_mask


@pytest.fixture
def volume():
    data = np.random.default_rng(0).normal(100, 20, (4, 6, 5)).astype(np.float32)
    data[:, :2] = 0
    return scan_from_array(data, name="volume", spacing=(3, 1, 2))


def test_slices_are_fresh_writable_copies(volume):
    first = volume.read_slice(2)
    assert first.flags.writeable
    assert first.flags.c_contiguous
    first[:] = -1
    assert (volume.read_slice(2) >= 0).all()
    assert np.array_equal(volume.read_slice(2), volume.data[2])


def test_flat_and_leading_indices_agree():
    scan = scan_from_array(np.random.default_rng(0).normal(size=(3, 4, 6, 5)), name="series")
    assert [scan.slice_index(scan.slice_position(i)) for i in range(12)] == list(range(12))
    assert scan.slice_position(5) == (1, 1)
    assert list(scan.case_slices(1)) == [4, 5, 6, 7]
    assert scan.case_name(1) == "series time 2"
    for wrong in (-1, 12):
        with pytest.raises(IndexError, match="slices 0 to 11"):
            scan.read_slice(wrong)


def test_quantiles_leave_out_the_background_and_what_is_not_finite(volume):
    data = np.asarray(volume.data)
    foreground = data[data != 0]
    found = volume.intensity_range(0, 0.05, 0.95)
    assert found == pytest.approx(np.quantile(foreground, [0.05, 0.95]))
    holed = data.copy()
    holed[:, 3] = np.nan
    holed[0, 4, 0] = np.inf
    kept = holed[np.isfinite(holed) & (holed != 0)]
    scan = scan_from_array(holed, name="holed")
    assert scan.intensity_range(0, 0.05, 0.95) == pytest.approx(np.quantile(kept, [0.05, 0.95]))
    with pytest.raises(ValueError, match="fractions"):
        volume.intensity_range(0, 5, 95)


@pytest.mark.parametrize("shift", [0, -1000, 3.5])
def test_the_background_is_what_lies_around_not_what_is_zero(shift):
    data = np.zeros((5, 40, 40), np.float32)
    data[1:4, 8:32, 8:32] = np.random.default_rng(0).normal(60, 25, (3, 24, 24))
    brain = data[data != 0]
    scan = scan_from_array(data + np.float32(shift), name="brain")
    low, high = np.quantile(brain, [0.01, 0.99])
    assert scan.intensity_range(0, 0.01, 0.99) == pytest.approx(
        (low + shift, high + shift), rel=1e-4
    )


def test_where_nothing_lies_around_everything_counts():
    data = np.random.default_rng(0).normal(0, 9, (3, 20, 20)).astype(np.float32)
    found = scan_from_array(data, name="filled").intensity_range(0, 0.1, 0.9)
    assert found == pytest.approx(np.quantile(data, [0.1, 0.9]), rel=1e-5)


def test_values_that_are_no_numbers_are_told_and_shown_where_they_are(tmp_path):
    data = np.random.default_rng(0).normal(100, 20, (6, 5, 4)).astype(np.float32)
    data[2, 3, :2] = np.nan
    data[0, 0, 3] = -np.inf
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "holed.nii.gz")
    scan = open_scan(tmp_path / "holed.nii.gz")
    assert scan.notices[-1].startswith("3 values in 3 of 4 slices are no numbers")
    found = [scan.invalid(i) for i in range(4)]
    assert found[2] is None
    assert [int(mask.sum()) for mask in (found[0], found[1], found[3])] == [1, 1, 1]
    assert np.array_equal(found[0], ~np.isfinite(scan.read_slice(0)))
    whole = scan_from_array(np.arange(60).reshape(3, 4, 5), name="whole")
    assert (whole.notices, whole.invalid(1)) == ((), None)
    colour = np.ones((4, 5, 3), np.float32)
    colour[1, 2, 0], colour[0, 0, 0] = np.nan, 0
    invalid = scan_from_array(colour, name="colour", rgb=True).invalid(0)
    assert np.argwhere(invalid).tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("shape", "rgb", "words"),
    [
        ((6, 7), False, ("slice", "image", "image", False, False)),
        ((6, 7), True, ("photograph", "photograph", "photograph 1", True, False)),
        ((3, 6, 7), False, ("slice", "volume", "slice 1", False, True)),
        ((3, 6, 7), True, ("photograph", "photograph", "photograph 1", True, False)),
        ((2, 3, 6, 7), False, ("slice", "volume", "time 1, slice 1", False, True)),
    ],
)
def test_a_scan_says_what_it_is_so_that_nobody_asks_for_its_kind(tmp_path, shape, rgb, words):
    data = np.random.default_rng(0).integers(1, 99, (*shape, 3) if rgb else shape)
    scan = scan_from_array(data.astype(np.uint8), name="Jane Doe", rgb=rgb)
    found = (
        scan.noun,
        scan.case_noun,
        scan.place_name(0),
        scan.is_photographic,
        scan.is_stack,
    )
    assert found == words
    assert scan.counts(1) == f"1 {scan.noun}"
    assert scan.counts(3) == f"3 {scan.noun}s"
    labels = (data % 3).astype(np.uint8)[..., 0] if rgb else (data % 3).astype(np.uint8)
    target = scan.mask_path(tmp_path, "adapted")
    assert target.is_dir() is False
    write_mask(labels, scan, target)
    assert target.is_dir() == scan.is_list
    assert np.array_equal(read_mask(target, scan), labels)


def test_each_case_has_its_own_range():
    data = np.random.default_rng(0).normal(100, 5, (2, 3, 8, 8))
    data[1] *= 10
    scan = scan_from_array(data, name="series")
    assert scan.intensity_range(1, 0.1, 0.9)[0] > 5 * scan.intensity_range(0, 0.1, 0.9)[1]


def test_the_upper_end_of_a_range_is_always_above_the_lower():
    data = np.zeros((4, 6, 5))
    data[2, 3, 3] = 7
    scan = scan_from_array(data, name="one voxel")
    low, high = scan.intensity_range(0, 0.01, 0.99)
    assert low < high


def test_masks_of_a_wrong_size_are_refused(volume):
    stack = volume.empty_mask()
    assert (stack.shape, stack.dtype) == ((4, 6, 5), np.uint8)
    with pytest.raises(ValueError, match="6 × 5"):
        volume.put_mask(stack, 1, np.zeros((5, 6), np.uint8))


def test_a_mask_slice_is_a_copy(volume):
    stack = volume.empty_mask()
    volume.put_mask(stack, 1, np.full((6, 5), 3, np.uint8))
    volume.get_mask(stack, 1)[:] = 9
    assert (stack[1] == 3).all()
    assert not stack[[0, 2, 3]].any()


def test_copies_of_layer_metadata_share_the_scan(volume):
    metadata = volume.layer_kwargs()["metadata"]
    assert copy.deepcopy(metadata)["napari_grata"]["scan"] is volume


def test_errors_survive_the_way_between_processes():
    error = ScanError("it is broken", "folder/file.nii", "Copy it again.")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "folder/file.nii: it is broken. Copy it again."


def test_slices_can_be_read_from_several_threads(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "many"
    folder.mkdir()
    from PIL import Image

    pictures = [rng.integers(0, 256, (40, 30, 3), dtype=np.uint8) for _ in range(12)]
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{i:02}.png")
    scan = open_scan(folder)
    wrong = []

    def look(start):
        for k in range(24):
            i = (start + k) % 12
            if not np.array_equal(scan.read_slice(i), pictures[i]):
                wrong.append(i)

    threads = [threading.Thread(target=look, args=(3 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_masks_turned_by_another_tool_are_turned_back(tmp_path):
    data = np.random.default_rng(0).integers(0, 99, (6, 7, 8)).astype(np.int16)
    affine = np.diag([-1.0, -2.0, 3.0, 1.0])
    nib.save(nib.Nifti1Image(data, affine), tmp_path / "scan.nii.gz")
    scan = open_scan(tmp_path / "scan.nii.gz")
    labels = (np.asarray(scan.data) % 4).astype(np.uint8)
    (path,) = write_mask(labels, scan, tmp_path / "mask.nii.gz")
    nib.save(nib.as_closest_canonical(nib.load(path)), tmp_path / "turned.nii.gz")
    assert np.array_equal(read_mask(tmp_path / "turned.nii.gz", scan), labels)
    moved = nib.load(path)
    shifted = affine.copy()
    shifted[0, 3] += 5
    nib.save(nib.Nifti1Image(np.asanyarray(moved.dataobj), shifted), tmp_path / "moved.nii.gz")
    with pytest.raises(ScanError, match="another grid"):
        read_mask(tmp_path / "moved.nii.gz", scan)


def test_real_scans_and_their_masks_meet(data_root):
    folder = data_root / "local_brain_T1_IBSR18" / "C_0.8371mm"
    if not folder.is_dir():
        pytest.skip("the IBSR scans are not here")
    path = sorted((folder / "images").iterdir())[0]
    scan = open_scan(path)
    assert scan.slice_spacing == pytest.approx((1.5, 0.8371), abs=1e-3)
    labels = read_mask(folder / "masks" / path.name, scan)
    white = np.asarray(scan.data)[labels == 3].mean()
    grey = np.asarray(scan.data)[labels == 2].mean()
    assert white > grey > np.asarray(scan.data)[labels == 1].mean()
