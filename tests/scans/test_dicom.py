"""DICOM series: in the right order, at the right place, with the right values, or refused."""

from __future__ import annotations

import gzip
import io
import logging
import warnings

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")
itk = pytest.importorskip("SimpleITK", reason="needs the extra itk, to compare with")

from PIL import Image  # noqa: E402
from pydicom.uid import (  # noqa: E402
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from napari_grata.scans import ScanError, open_scan, read_mask, write_mask  # noqa: E402
from napari_grata.scans.dicom_series import find_series  # noqa: E402
from napari_grata.scans.readers import find_scans  # noqa: E402
from tools.generators import dicom as made  # noqa: E402

VOLUME = np.random.default_rng(0).integers(0, 1000, (6, 9, 11)).astype(np.int16)
COLOUR = np.random.default_rng(1).integers(0, 256, (8, 12, 3), dtype=np.uint8)
OBLIQUE = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0][:2]
WAYS = {
    "axial": made.AXIAL,
    "from above": ((1, 0, 0), (0, -1, 0)),
    "mirrored": ((-1, 0, 0), (0, 1, 0)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "oblique": OBLIQUE,
}


def step(way, distance=2.5):
    return np.cross(*np.asarray(way, float)) * distance


def on_file(scan):
    """The scan's values as (slice, row, column) of its files."""
    return np.asarray(scan.geometry.to_source(np.asarray(scan.data))).transpose(2, 1, 0)


def read_by_itk(paths):
    """Values (slice, row, column) and affine to (right, anterior, superior), by SimpleITK."""
    itk.ProcessObject.SetGlobalWarningDisplay(False)
    if len(paths) == 1:
        image = itk.ReadImage(str(paths[0]))
    else:
        names = itk.ImageSeriesReader.GetGDCMSeriesFileNames(str(paths[0].parent))
        image = itk.ReadImage(names)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return itk.GetArrayFromImage(image), np.diag([-1, -1, 1, 1]) @ affine


def refused(source, says, hint=""):
    with pytest.raises(ScanError, match=says) as caught:
        open_scan(source)
    assert caught.value.hint
    assert hint in caught.value.hint
    assert "DOE" not in str(caught.value)


@pytest.mark.parametrize("way", WAYS)
def test_a_series_lies_where_simpleitk_says(tmp_path, way):
    way = WAYS[way]
    # The scanner's file names and numbers say nothing of the order.
    names = [f"IM{k}" for k in (4, 1, 5, 0, 3, 2)]
    paths = made.classic(
        VOLUME,
        tmp_path / "s",
        directions=way,
        step=step(way),
        names=names,
        RescaleIntercept="-1024",
    )
    scan = open_scan(tmp_path / "s")
    values, affine = read_by_itk(paths)
    np.testing.assert_allclose(scan.geometry.affine, affine, atol=1e-3)
    np.testing.assert_array_equal(on_file(scan), values)
    np.testing.assert_array_equal(on_file(scan), VOLUME.astype(int) - 1024)
    assert scan.kind == "volume"
    assert scan.slice_thickness is not None


@pytest.mark.parametrize("way", WAYS)
def test_an_enhanced_file_lies_where_simpleitk_says(tmp_path, way):
    way = WAYS[way]
    path = made.enhanced(VOLUME, tmp_path / "one", directions=way, step=step(way))
    scan = open_scan(path)
    values, affine = read_by_itk([path])
    np.testing.assert_allclose(scan.geometry.affine, affine, atol=1e-3)
    np.testing.assert_array_equal(on_file(scan), values)


def test_the_frames_of_an_enhanced_file_may_lie_in_any_order(tmp_path):
    path = made.enhanced(VOLUME, tmp_path / "one.dcm", order=[3, 0, 5, 1, 4, 2])
    np.testing.assert_array_equal(on_file(open_scan(path)), VOLUME.astype(int) - 1024)


def test_slices_are_displayed_as_radiologists_see_them(tmp_path):
    made.classic(VOLUME, tmp_path / "s")
    scan = open_scan(tmp_path / "s")
    assert scan.geometry.axis_labels == ("superior", "posterior", "left")
    assert scan.geometry.spacing == pytest.approx((2.5, 0.8, 0.7))
    np.testing.assert_array_equal(scan.data, VOLUME)


def test_a_single_file_opens_the_series_it_belongs_to(tmp_path):
    paths = made.classic(VOLUME, tmp_path / "s", suffix="")
    for source in (paths[3], paths, str(tmp_path / "s")):
        scan = open_scan(source)
        assert scan.mask_shape == VOLUME.shape
        assert scan.path == paths[0]


def test_a_tilted_gantry_is_told_and_its_slices_lie_where_they_lie(tmp_path):
    tilted = np.array([0, 0.8, 2.5])
    paths = made.classic(VOLUME, tmp_path / "s", step=tilted)
    scan = open_scan(tmp_path / "s")
    (told,) = scan.notices
    assert "tilted against their stack by 17.7°" in told
    # Between planes, not between corners: volumes are measured by it.
    assert scan.slice_thickness == pytest.approx(2.5)
    for k, path in enumerate(paths):
        place = np.array(pydicom.dcmread(path).ImagePositionPatient, float) * (-1, -1, 1)
        np.testing.assert_allclose((scan.geometry.affine @ (0, 0, k, 1))[:3], place, atol=1e-3)


# -- what is missing, doubled, uneven ----------------------------------------------------------


def test_a_missing_slice_is_told_and_the_stack_never_closed_up(tmp_path):
    paths = made.classic(VOLUME, tmp_path / "s")
    paths[2].unlink()
    refused(tmp_path / "s", "1 slice is missing: slices 2 and 3 lie 5 mm apart, others 2.5 mm")


def test_every_other_slice_missing_is_told_by_their_thickness(tmp_path):
    paths = made.classic(VOLUME, tmp_path / "s")
    for path in paths[1::2]:
        path.unlink()
    assert any("gaps between them" in told for told in open_scan(tmp_path / "s").notices)


@pytest.mark.parametrize(("off", "fine"), [(0.1, True), (1.0, False)])
def test_uneven_slices_are_told_or_refused(tmp_path, off, fine):
    paths = made.classic(VOLUME, tmp_path / "s")
    dataset = pydicom.dcmread(paths[3])
    dataset.ImagePositionPatient[2] += off
    dataset.save_as(paths[3])
    if fine:
        (told,) = open_scan(tmp_path / "s").notices
        assert "unevenly spaced, 2.4 to 2.6 mm apart" in told
    else:
        refused(tmp_path / "s", "unevenly spaced: 1.5 to 3.5 mm apart")


def test_a_copy_of_a_file_is_read_once_and_told(tmp_path):
    paths = made.classic(VOLUME, tmp_path / "s")
    (tmp_path / "s" / "copy.dcm").write_bytes(paths[1].read_bytes())
    scan = open_scan(tmp_path / "s")
    assert scan.mask_shape == VOLUME.shape
    assert "1 image of the series are there twice" in scan.notices[0]


def test_two_images_at_one_place_are_refused(tmp_path):
    paths = made.classic(VOLUME, tmp_path / "s")
    dataset = pydicom.dcmread(paths[1])
    dataset.SOPInstanceUID = made.uid("other")
    dataset.save_as(tmp_path / "s" / "other.dcm")
    refused(tmp_path / "s", "1 image of 7 lie at the place of another")


def test_echoes_at_one_place_are_offered_one_by_one(tmp_path):
    for echo in ("20", "80"):
        names = [f"{echo}-{k}" for k in range(6)]
        paths = made.classic(
            VOLUME + int(echo), tmp_path / "s", modality="MR", names=names, EchoTime=echo
        )
        for k, path in enumerate(paths):
            dataset = pydicom.dcmread(path)
            dataset.SOPInstanceUID = made.uid("echo", echo, k)
            dataset.save_as(path)
    refused(tmp_path / "s", "2 scans", "echo time 80 ms, 6 images of 9 × 11")
    scan = open_scan(tmp_path / "s" / "80-3")
    np.testing.assert_array_equal(scan.data, VOLUME + 80)
    assert "Of the 12 images of this series, 6 are this scan" in scan.notices[0]


# -- several series ----------------------------------------------------------------------------


def test_several_series_are_listed_and_one_is_chosen(tmp_path):
    made.classic(VOLUME, tmp_path / "study" / "a", description="Native", series=2)
    made.classic(VOLUME[:4] + 1, tmp_path / "study" / "b", description="Contrast", series=5)
    found = find_series(tmp_path / "study")
    assert [(one.number, one.modality, one.description, len(one.frames)) for one in found] == [
        (1, "CT", "Native", 6),
        (2, "CT", "Contrast", 4),
    ]
    assert found[1].words == "CT, Contrast, 4 images of 9 × 11"
    refused(tmp_path / "study", "2 scans", "#2: CT, Contrast, 4 images")
    for chosen in (found[1].path, f"{tmp_path / 'study'}#2", tmp_path / "study" / "b"):
        np.testing.assert_array_equal(open_scan(chosen).data, VOLUME[:4] + 1)
    with pytest.raises(ScanError, match="2 scans, not 3"):
        open_scan(f"{tmp_path / 'study'}#3")


def test_series_in_one_folder_do_not_mix(tmp_path):
    made.classic(VOLUME, tmp_path, series=1, names=[f"a{k}" for k in range(6)])
    made.classic(VOLUME[:, :5], tmp_path, series=2, names=[f"b{k}" for k in range(6)])
    assert find_scans(sorted(tmp_path.iterdir())) == [tmp_path / "a0", tmp_path / "b0"]
    assert open_scan(tmp_path / "b2").mask_shape == (6, 5, 11)
    with pytest.raises(ScanError, match="not of one series"):
        open_scan([tmp_path / "a0", tmp_path / "b0"])


def test_localizers_of_three_directions_are_three_scans(tmp_path):
    for k, way in enumerate(("axial", "coronal", "sagittal")):
        names = [f"{k}{i}" for i in range(2)]
        paths = made.classic(
            VOLUME[:2], tmp_path, directions=WAYS[way], step=step(WAYS[way]), names=names
        )
        for i, path in enumerate(paths):
            dataset = pydicom.dcmread(path)
            dataset.SOPInstanceUID = made.uid("localizer", k, i)
            dataset.save_as(path)
    assert [len(one.frames) for one in find_series(tmp_path)] == [2, 2, 2]
    assert open_scan(tmp_path / "11").geometry.plane is not None


# -- values ------------------------------------------------------------------------------------


def test_each_slice_is_scaled_by_its_own_slope(tmp_path):
    paths = made.classic(VOLUME, tmp_path / "s", modality="PT", RescaleIntercept="0")
    for k, path in enumerate(paths):
        dataset = pydicom.dcmread(path)
        dataset.RescaleSlope = str(0.5 + k)
        dataset.save_as(path)
    expected = VOLUME * (0.5 + np.arange(6))[:, None, None]
    np.testing.assert_allclose(open_scan(tmp_path / "s").data, expected, rtol=1e-6)


def test_greys_stored_inverted_are_turned_but_not_hounsfield_units(tmp_path):
    grey = VOLUME[:1].astype(np.uint16)
    keys = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 10, "HighBit": 9}
    xray = made.photograph(grey[0], tmp_path / "xray.dcm", modality="CR", **keys)
    scan = open_scan(xray)
    np.testing.assert_array_equal(scan.data, 1023 - grey[0])
    assert any("inverted" in told for told in scan.notices)
    made.classic(VOLUME, tmp_path / "s", PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(open_scan(tmp_path / "s").data, VOLUME)


def test_what_lies_in_the_spare_bits_is_no_value(tmp_path):
    twelve = (VOLUME % 4096).astype(np.uint16)
    made.classic(twelve | 0x8000, tmp_path / "s", BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(open_scan(tmp_path / "s").data, twelve)


@pytest.mark.parametrize("colours", ["RGB", "YBR_FULL"])
def test_a_fundus_photograph_is_a_photograph(tmp_path, colours):
    stored = COLOUR
    if colours == "YBR_FULL":
        matrix = np.array(
            [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
        )
        stored = np.clip(COLOUR @ matrix.T + (0, 128, 128), 0, 255).round().astype(np.uint8)
    path = made.photograph(stored, tmp_path / "eye.dcm", PhotometricInterpretation=colours)
    scan = open_scan(path)
    assert (scan.kind, scan.rgb, scan.mask_suffix) == ("photograph", True, ".png")
    np.testing.assert_allclose(scan.data.astype(int), COLOUR.astype(int), atol=2)
    mask = np.zeros(scan.mask_shape, np.uint8)
    mask[2:4, 5:9] = 2
    (written,) = write_mask(mask, scan, tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(written, scan), mask)
    assert b"DOE" not in written.read_bytes()


def test_photographs_of_both_eyes_are_two_scans(tmp_path):
    made.photograph(COLOUR, tmp_path / "l.dcm")
    made.photograph(COLOUR, tmp_path / "r.dcm", ImageLaterality="R")
    assert [one.description for one in find_series(tmp_path)] == ["Fundus, left", "Fundus, right"]


def test_an_x_ray_is_an_image_without_a_place(tmp_path):
    keys = {"ImagerPixelSpacing": [0.2, 0.1]}
    scan = open_scan(made.photograph(VOLUME[0], tmp_path / "x.dcm", modality="DX", **keys))
    assert (scan.kind, scan.slice_spacing) == ("image", (0.2, 0.1))
    assert "does not say how the patient lies" in scan.notices[0]
    (written,) = write_mask(scan.empty_mask(), scan, tmp_path / "mask.nii.gz")
    assert read_mask(written, scan).shape == VOLUME[0].shape


# -- what cannot be read -----------------------------------------------------------------------


def test_compressed_series_are_read_where_a_plugin_is_there(tmp_path):
    made.classic(VOLUME, tmp_path / "s", syntax=RLELossless)
    np.testing.assert_array_equal(open_scan(tmp_path / "s").data, VOLUME)


def compressed(path, codestream, syntax, colours):
    """Put a picture that Pillow compressed in the place of a file's pixels."""
    dataset = pydicom.dcmread(path)
    dataset.PixelData = pydicom.encaps.encapsulate([codestream])
    dataset["PixelData"].VR = "OB"
    dataset.PhotometricInterpretation = colours
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path)
    return path


def test_a_fundus_camera_sends_jpeg(tmp_path):
    smooth = np.kron(COLOUR[:4, :4], np.ones((16, 16, 1), np.uint8))
    buffer = io.BytesIO()
    Image.fromarray(smooth).save(buffer, "JPEG", quality=95, subsampling="4:2:2")
    path = made.photograph(smooth, tmp_path / "eye.dcm")
    compressed(path, buffer.getvalue(), JPEGBaseline8Bit, "YBR_FULL_422")
    theirs = np.asarray(Image.open(buffer))
    np.testing.assert_allclose(open_scan(path).data.astype(int), theirs.astype(int), atol=3)


def test_jpeg_2000_and_jpeg_ls_are_lossless(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(VOLUME[0].astype(np.uint16)).save(
        buffer, "JPEG2000", irreversible=False, no_jp2=True
    )
    (path,) = made.classic(VOLUME[:1].astype(np.uint16), tmp_path / "a")
    compressed(path, buffer.getvalue(), JPEG2000Lossless, "MONOCHROME2")
    np.testing.assert_array_equal(open_scan(path).data, VOLUME[0])
    pytest.importorskip("jpeg_ls", reason="needs the extra dicom")
    (path,) = made.classic(VOLUME[:1].astype(np.uint16), tmp_path / "b")
    dataset = pydicom.dcmread(path)
    dataset.compress(JPEGLSLossless)
    dataset.save_as(path)
    np.testing.assert_array_equal(open_scan(path).data, VOLUME[0])


def test_a_missing_plugin_is_named(tmp_path, monkeypatch):
    made.classic(VOLUME, tmp_path / "s", syntax="1.2.840.10008.1.2.4.70")
    decoder = pydicom.pixels.get_decoder("1.2.840.10008.1.2.4.70")
    for plugin in decoder.available_plugins:
        monkeypatch.delitem(decoder._available, plugin)
    refused(
        tmp_path / "s", "JPEG Lossless.*not installed", "pip install pylibjpeg pylibjpeg-libjpeg"
    )


def test_a_private_transfer_syntax_is_refused(tmp_path):
    made.classic(VOLUME, tmp_path / "s", syntax="1.2.840.113619.5.2")
    refused(tmp_path / "s", "in a private way", "Explicit VR Little Endian")


def test_pixels_that_are_not_what_the_header_says(tmp_path):
    made.classic(VOLUME, tmp_path / "s", syntax=JPEGBaseline8Bit)
    refused(tmp_path / "s", "cannot be unpacked", "another decoder")


@pytest.mark.parametrize("keep", [0, 100, 400, 1100, 1300])
def test_a_file_cut_short(tmp_path, keep):
    (path,) = made.classic(VOLUME[:1], tmp_path / "s")
    whole = path.read_bytes()
    assert len(whole) > 1300
    path.write_bytes(whole[:keep])
    refused(path, "0 bytes|mark|cut short|header|cannot be read|no pixels")


def test_a_damaged_file_of_a_series_is_told(tmp_path):
    paths = made.classic(VOLUME, tmp_path / "s")
    paths[-1].write_bytes(paths[-1].read_bytes()[:300])
    scan = open_scan(tmp_path / "s")
    assert scan.n_slices == 5
    assert scan.notices == ("1 file of its folder cannot be read as DICOM.",)


def test_what_is_no_dicom_and_what_is_no_scan(tmp_path):
    (tmp_path / "letter.dcm").write_bytes(b"Dear colleague " * 30)
    refused(tmp_path / "letter.dcm", "mark at its beginning is missing")
    (path,) = made.classic(VOLUME[:1], tmp_path / "s", Modality="RTDOSE")
    refused(path, "it holds a dose")
    refused(tmp_path / "s", "no photographs or DICOM series|no DICOM images")
    meta = pydicom.dcmread(path)
    meta.SOPClassUID = "1.2.840.10008.1.3.10"
    meta.save_as(tmp_path / "DICOMDIR")
    refused(tmp_path / "DICOMDIR", "the list of a disc", "folder")


@pytest.mark.parametrize(
    "gone", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"]
)
def test_slices_that_do_not_say_where_they_lie(tmp_path, gone):
    made.classic(VOLUME, tmp_path / "s", **{gone: None})
    refused(tmp_path / "s", "6 images do not say where they lie")


def test_a_film_is_no_stack(tmp_path):
    path = made.photograph(VOLUME[0], tmp_path / "film.dcm", modality="US", NumberOfFrames=6)
    refused(path, "6 images do not say where they lie")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"Rows": 60000, "Columns": 60000}, "too large|cut short"),
        ({"BitsStored": 0}, "not read"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "right angles"),
        ({"RescaleSlope": "1e40"}, "scaled by 1e\\+40"),
        ({"RescaleSlope": "0"}, "scaled by 0"),
        ({"PixelSpacing": ["0", "1"]}, "pixels would measure"),
    ],
)
def test_headers_that_cannot_be_true(tmp_path, change, says):
    (path,) = made.classic(VOLUME[:1], tmp_path / "s", **change)
    refused(path, says)


def test_absurd_sizes_are_refused_before_anything_is_decoded(tmp_path):
    paths = made.classic(
        VOLUME, tmp_path / "s", syntax="1.2.840.10008.1.2.4.90", Rows=65535, Columns=65535
    )
    refused(paths[0], "too large: 6 × 65535 × 65535")


def test_photographs_and_dicom_in_one_folder_are_not_guessed_at(tmp_path):
    made.classic(VOLUME, tmp_path / "s")
    Image.fromarray(COLOUR).save(tmp_path / "s" / "preview.jpg")
    refused(tmp_path / "s", "both photographs and DICOM")
    assert open_scan(tmp_path / "s" / "IM0001.dcm").kind == "volume"


# -- nobody is named ---------------------------------------------------------------------------


def test_nothing_of_the_patient_leaves_the_file(tmp_path, caplog, capfd):
    paths = made.classic(VOLUME, tmp_path / "s")
    # What pydicom warns about would quote the value.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(paths[0])
        dataset.SeriesInstanceUID = "DOE^JOHN"
        dataset.save_as(paths[0])
        caplog.clear()
    with caplog.at_level(logging.DEBUG):
        scan = open_scan(paths[1])
        target = write_mask(scan.empty_mask() + 1, scan, tmp_path / "mask.nii.gz")[0]
    told = [scan.name, *scan.notices, caplog.text, *capfd.readouterr(), repr(scan)]
    told += [repr(scan.layer_kwargs()), scan.slice_name(0), repr(find_series(tmp_path))]
    assert not [text for text in told if "DOE" in text or "4711" in text]
    assert b"DOE" not in gzip.decompress(target.read_bytes())


def test_a_mask_in_nifti_lies_on_the_series(tmp_path):
    import nibabel as nib

    made.classic(VOLUME, tmp_path / "s", directions=OBLIQUE, step=step(OBLIQUE))
    scan = open_scan(tmp_path / "s")
    mask = (np.asarray(scan.data) % 3).astype(np.uint8)
    (path,) = write_mask(mask, scan, scan.mask_path(tmp_path, "mask"))
    image = nib.load(path)
    np.testing.assert_allclose(image.affine, scan.geometry.affine, atol=1e-3)
    np.testing.assert_array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), VOLUME % 3)
    np.testing.assert_array_equal(read_mask(path, scan), mask)


def test_without_pydicom_the_extra_is_named(tmp_path, monkeypatch):
    import sys

    paths = made.classic(VOLUME, tmp_path / "s")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    refused(paths[0], "pydicom is not installed", "napari-grata[dicom]")
    refused(tmp_path / "s", "pydicom is not installed")
