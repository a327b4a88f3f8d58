"""Photographs of every common kind are shown upright, and their masks fit the stored pixels."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from napari_grata.scans import ScanError, open_scan, read_mask, write_mask
from tools.generators.photographs import COMPRESSIONS, compare, save_tiff, save_wide
from tools.generators.photographs import picture as made_up

ORIENTATION = 274


def picture(height=9, width=13, channels=3, dtype=np.uint8):
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(height * width).integers(0, np.iinfo(dtype).max, shape, dtype)


def save_with_orientation(pixels, path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(
        path, exif=exif, **({"quality": 95} if path.suffix != ".png" else {})
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_exif_orientation_is_shown_and_masks_fit_the_stored_pixels(tmp_path, orientation, suffix):
    path = tmp_path / f"eye{suffix}"
    save_with_orientation(picture(), path, orientation)
    upright = np.array(ImageOps.exif_transpose(Image.open(path)))
    scan = open_scan(path)
    assert scan.kind == "photograph"
    assert np.array_equal(scan.data, upright)
    assert scan.slice_shape(0) == upright.shape[:2]

    labels = (upright[..., 1] % 3).astype(np.uint8)
    (mask_path,) = write_mask(labels, scan, tmp_path / "mask.png")
    with Image.open(mask_path) as mask:
        # On the stored grid, so that the mask fits in programs that ignore the tag …
        assert mask.size == (13, 9)
        with Image.open(path) as stored:
            assert np.array_equal(np.array(mask), np.array(stored)[..., 1] % 3)
        # … and in those that follow it.
        assert np.array_equal(np.array(ImageOps.exif_transpose(mask)), labels)
    assert np.array_equal(read_mask(mask_path, scan), labels)


@pytest.mark.parametrize(
    "pixels",
    [
        picture(channels=0),
        picture(channels=0, dtype=np.uint16),
        picture(),
        picture(channels=4),
        picture(channels=2),
    ],
)
def test_png_pictures_keep_their_values_and_lose_their_alpha(tmp_path, pixels):
    path = tmp_path / "eye.png"
    Image.fromarray(pixels).save(path)
    scan = open_scan(path)
    expected = {2: pixels[..., 0], 3: pixels, 4: pixels[..., :3]}.get(
        pixels.shape[-1] if pixels.ndim == 3 else 0, pixels
    )
    assert scan.rgb == (expected.ndim == 3)
    assert np.array_equal(scan.read_slice(0), expected)
    assert scan.read_slice(0).dtype == pixels.dtype


@pytest.mark.parametrize("palette_grey", [True, False])
def test_palette_and_black_and_white_pictures_open(tmp_path, palette_grey):
    if palette_grey:
        Image.fromarray(picture()).convert("P").save(tmp_path / "eye.png")
        expected = np.array(Image.open(tmp_path / "eye.png").convert("RGB"))
    else:
        Image.fromarray(picture(channels=0)).convert("1").save(tmp_path / "eye.png")
        expected = np.array(Image.open(tmp_path / "eye.png").convert("L"))
    assert np.array_equal(open_scan(tmp_path / "eye.png").data, expected)


def test_a_large_mask_of_one_bit_a_pixel_packs_well_and_is_whole(tmp_path):
    mask = np.zeros((2848, 4288), bool)
    mask[900:1300, 3100:3500] = True
    Image.fromarray(mask).save(tmp_path / "mask.png", optimize=True)
    assert mask.size / (tmp_path / "mask.png").stat().st_size > 2500
    assert np.array_equal(open_scan(tmp_path / "mask.png").read_slice(0) > 0, mask)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [0, 3, 4])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_pictures_keep_their_sixteen_bits(tmp_path, dtype, channels, planar):
    pixels = picture(channels=channels, dtype=dtype)
    options = {"photometric": "rgb", "planarconfig": planar} if channels else {}
    stored = np.moveaxis(pixels, -1, 0) if channels and planar == "separate" else pixels
    tifffile.imwrite(tmp_path / "eye.tif", stored, **options)
    scan = open_scan(tmp_path / "eye.tif")
    assert scan.kind == "photograph"
    assert np.array_equal(scan.data, pixels[..., :3] if channels else pixels)
    assert scan.data.dtype == dtype


@pytest.mark.parametrize(
    ("compression", "mode"), [(c, mode) for c, modes in COMPRESSIONS.items() for mode in modes]
)
def test_a_tiff_of_any_mode_compression_and_orientation_is_what_pillow_stored(
    tmp_path, compression, mode
):
    rng = np.random.default_rng(0)
    for orientation in range(1, 9):
        made = save_tiff(made_up(rng, mode), tmp_path, compression, orientation)
        compare(np.asarray(open_scan(made.path).data), made.path, made.expected, made.what)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "u4", "i2", "i4", "f2", "f4", "f8"])
@pytest.mark.parametrize("samples", [1, 3, 4])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_of_any_bit_depth_and_orientation_is_what_was_stored(
    tmp_path, dtype, samples, compression
):
    rng = np.random.default_rng(0)
    for orientation in range(1, 9):
        for byteorder in "<>":
            made = save_wide(
                rng,
                tmp_path,
                dtype,
                samples,
                orientation,
                compression=compression,
                byteorder=byteorder,
            )
            compare(np.asarray(open_scan(made.path).data), made.path, made.expected, made.what)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_white_that_is_stored_as_zero_is_shown_white(tmp_path, dtype, compression):
    pixels = picture(channels=0, dtype=dtype)
    path = tmp_path / "eye.tif"
    tifffile.imwrite(path, pixels, photometric="miniswhite", compression=compression)
    assert np.array_equal(open_scan(path).data, np.iinfo(dtype).max - pixels)
    tifffile.imwrite(path, pixels.astype(np.float32), photometric="miniswhite")
    with pytest.raises(ScanError, match="stored in a way that is not read"):
        open_scan(path)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_colour_spaces_become_rgb(tmp_path, mode, compression):
    colours = Image.fromarray(picture(32, 48)).convert(mode)
    colours.save(tmp_path / "eye.tif", compression=None if compression == "raw" else compression)
    shown = np.asarray(open_scan(tmp_path / "eye.tif").data).astype(int)
    assert np.abs(shown - np.array(colours.convert("RGB"))).max() <= 2


def test_colour_spaces_that_are_not_known_are_refused(tmp_path):
    made_up(np.random.default_rng(0), "LAB").save(tmp_path / "lab.tif")
    Image.fromarray(picture(32, 48)).convert("YCbCr").save(tmp_path / "chroma.tif")
    with tifffile.TiffFile(tmp_path / "chroma.tif", mode="r+") as file:
        file.pages[0].tags[530].overwrite((2, 2))
    for name in ("lab.tif", "chroma.tif"):
        with pytest.raises(ScanError, match=r"stored in a way that is not read.*8-bit RGB"):
            open_scan(tmp_path / name)


def test_sixteen_bit_colours_that_are_read_as_eight_are_told(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "eight.png")
    assert open_scan(tmp_path / "eight.png").notices == ()
    wide = png_of_sixteen_bits(picture(dtype=np.uint16))
    (tmp_path / "sixteen.png").write_bytes(wide)
    scan = open_scan(tmp_path / "sixteen.png")
    assert scan.notices == ("Of its 16 bits a colour, the upper 8 are read.",)
    assert np.array_equal(scan.data, picture(dtype=np.uint16) >> 8)
    assert open_scan([tmp_path / "eight.png", tmp_path / "sixteen.png"]).notices == scan.notices


def png_of_sixteen_bits(pixels):
    """A PNG of 16-bit RGB, which Pillow does not write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data
        content += struct.pack(">I", zlib.crc32(kind + data))
    return content


def test_float_tiff_and_tiff_orientation(tmp_path):
    pixels = np.random.default_rng(0).normal(size=(9, 13)).astype(np.float32)
    tifffile.imwrite(tmp_path / "map.tiff", pixels, extratags=[(274, 3, 1, 6, True)])
    scan = open_scan(tmp_path / "map.tiff")
    assert np.array_equal(scan.data, np.rot90(pixels, -1))


def test_a_tiff_of_several_pages_is_a_stack_of_slices(tmp_path):
    pages = picture(5, 9, 13).transpose(0, 2, 1).copy()
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    scan = open_scan(tmp_path / "stack.tif")
    assert scan.kind == "volume"
    assert scan.leading_shape == (5,)
    assert np.array_equal(scan.read_slice(3), pages[3])
    assert scan.slice_name(3) == "slice 4"
    labels = (pages % 5).astype(np.uint8)
    (path,) = write_mask(labels, scan, tmp_path / "mask.tif")
    assert np.array_equal(tifffile.imread(path), labels)
    assert np.array_equal(read_mask(path, scan), labels)


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_a_stack_that_is_stored_turned_is_shown_upright_and_its_masks_fit(tmp_path, orientation):
    made = save_wide(np.random.default_rng(0), tmp_path, "u2", 1, orientation, pages=3)
    scan = open_scan(made.path)
    assert np.array_equal(scan.data, made.expected)
    labels = (made.expected % 7).astype(np.uint8)
    for name in ("mask.tif", "mask.nii.gz"):
        (path,) = write_mask(labels, scan, tmp_path / name)
        assert np.array_equal(read_mask(path, scan), labels)
    assert np.array_equal(tifffile.imread(tmp_path / "mask.tif"), tifffile.imread(made.path) % 7)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_masks_of_turned_photographs_fit_the_stored_pixels_as_png_and_as_tiff(
    tmp_path, suffix, orientation
):
    made = save_tiff(made_up(np.random.default_rng(0), "L"), tmp_path, "tiff_lzw", orientation)
    scan = open_scan(made.path)
    labels = (made.expected % 5).astype(np.uint8)
    (path,) = write_mask(labels, scan, tmp_path / f"mask{suffix}")
    assert np.array_equal(read_mask(path, scan), labels)
    with Image.open(path) as mask, Image.open(made.path) as photograph:
        assert mask.getexif().get(274, 1) == photograph.getexif()[274]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_masks_that_store_zero_for_white_are_refused(tmp_path, dtype):
    Image.fromarray(picture()).save(tmp_path / "eye.png")
    labels = (picture()[..., 0] % 3).astype(dtype)
    tifffile.imwrite(tmp_path / "mask.tif", labels, photometric="miniswhite")
    with pytest.raises(ScanError, match="0 is stored for white"):
        read_mask(tmp_path / "mask.tif", open_scan(tmp_path / "eye.png"))


def test_palettes_of_masks_are_labels_in_every_format(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "eye.png")
    scan = open_scan(tmp_path / "eye.png")
    labels = (picture()[..., 0] % 3).astype(np.uint8)
    mask = Image.fromarray(labels).convert("P")
    mask.putpalette([0, 0, 0, 200, 10, 10, 10, 200, 10])
    for name in ("mask.png", "mask.tif", "mask.bmp"):
        mask.save(tmp_path / name)
        assert np.array_equal(read_mask(tmp_path / name, scan), labels)
    Image.fromarray(np.dstack([labels, labels + 9])).save(tmp_path / "alpha.png")
    assert np.array_equal(read_mask(tmp_path / "alpha.png", scan), labels)


@pytest.fixture
def folder(tmp_path):
    """Photographs of three sizes, two types and one EXIF orientation, and things beside them."""
    folder = tmp_path / "centre"
    folder.mkdir()
    Image.fromarray(picture(9, 13)).save(folder / "b.png")
    save_with_orientation(picture(20, 7), folder / "a.jpg", 6)
    Image.fromarray(picture(11, 5, channels=0)).save(folder / "c.png")
    (folder / "notes.txt").write_text("not a photograph")
    (folder / ".hidden.png").write_bytes(b"nothing")
    return folder


def test_a_folder_is_one_list_of_cases_in_the_order_of_names(folder):
    scan = open_scan(folder)
    assert (scan.kind, scan.name, scan.rgb) == ("photographs", "centre", True)
    assert [scan.slice_name(i) for i in range(3)] == ["a", "b", "c"]
    assert [scan.case_name(c) for c in range(scan.n_cases)] == ["a", "b", "c"]
    assert [scan.case_of(i) for i in range(3)] == [0, 1, 2]
    assert [scan.slice_shape(i) for i in range(3)] == [(7, 20), (9, 13), (11, 5)]
    assert scan.data.shape == (3, 11, 20, 3)
    assert scan.mask_shape == (3, 11, 20)
    for i in range(3):
        height, width = scan.slice_shape(i)
        shown = np.asarray(scan.data[i])
        assert np.array_equal(shown[:height, :width], scan.read_slice(i))
        assert not shown[height:].any()
        assert not shown[:, width:].any()
    grey = np.array(Image.open(folder / "c.png"))
    assert np.array_equal(scan.read_slice(2), np.stack([grey] * 3, axis=-1))


def test_folders_called_images_are_named_after_their_centre(folder):
    folder = folder.rename(folder.parent / "images")
    assert open_scan(folder).name == f"{folder.parent.name} images"


def test_a_photograph_that_breaks_off_is_found_beyond_those_that_are_decoded(folder, monkeypatch):
    from napari_grata.scans import photographs

    monkeypatch.setattr(photographs, "_DECODE_BUDGET", 0)
    assert open_scan(folder).n_slices == 3
    whole = (folder / "a.jpg").read_bytes()
    (folder / "a.jpg").write_bytes(whole[:-20])
    with pytest.raises(ScanError, match=r"a\.jpg: it breaks off"):
        open_scan(folder)


def test_photographs_of_a_list_are_decoded_only_when_looked_at(folder):
    scan = open_scan(folder)
    assert hasattr(scan.data, "dask")
    assert scan.data.chunks[0] == (1, 1, 1)


def test_masks_of_a_list_are_written_at_true_sizes_and_name_nobody(folder, tmp_path):
    scan = open_scan(folder)
    stack = scan.empty_mask()
    expected = []
    for i in range(3):
        labels = (scan.read_slice(i)[..., 0] % 4).astype(np.uint8)
        scan.put_mask(stack, i, labels)
        expected.append(labels)
        assert np.array_equal(scan.get_mask(stack, i), labels)
    paths = write_mask(stack, scan, tmp_path / "masks", colours={1: "#102030"})
    assert [p.name for p in paths] == ["case-0001.png", "case-0002.png", "case-0003.png"]
    with Image.open(paths[0]) as mask:
        assert mask.size == (7, 20)
        assert mask.mode == "P"
        assert mask.getpalette()[3:6] == [0x10, 0x20, 0x30]
    assert np.array_equal(read_mask(tmp_path / "masks", scan), stack)
    named = write_mask(stack, scan, tmp_path / "named", scan_names=True)
    assert [p.name for p in named] == ["a.png", "b.png", "c.png"]
    assert np.array_equal(read_mask(tmp_path / "named", scan), stack)


def test_masks_by_name_and_by_number_are_not_mixed_up(folder, tmp_path):
    # Their own names look like numbers, and count otherwise than the list.
    paths = []
    for k, name in enumerate(("b.png", "c.png")):
        paths.append((folder / name).rename(folder / f"case-000{2 - k}.png"))
    scan = open_scan(paths)
    stack = scan.empty_mask()
    for i in range(2):
        scan.put_mask(stack, i, np.full(scan.slice_shape(i), i + 1, np.uint8))
    write_mask(stack, scan, tmp_path / "masks")
    with pytest.raises(ScanError, match="by the photographs' names and by numbers"):
        read_mask(tmp_path / "masks", scan)


@pytest.mark.parametrize("scan_names", [True, False])
def test_masks_never_lie_among_the_photographs(folder, scan_names):
    scan = open_scan(folder)
    before = sorted(folder.iterdir())
    with pytest.raises(ScanError, match="folder of the photographs"):
        write_mask(scan.empty_mask(), scan, folder / ".", overwrite=True, scan_names=scan_names)
    assert sorted(folder.iterdir()) == before


def test_two_photographs_of_one_name_are_told_before_anything_is_written(folder, tmp_path):
    (folder / "sub").mkdir()
    paths = [folder / "b.png", (folder / "c.png").rename(folder / "sub" / "b.png")]
    scan = open_scan(paths)
    with pytest.raises(ScanError, match="two photographs are called b"):
        write_mask(scan.empty_mask(), scan, tmp_path / "masks", scan_names=True)
    assert not (tmp_path / "masks").exists()
    assert len(write_mask(scan.empty_mask(), scan, tmp_path / "masks")) == 2


def test_eight_bit_photographs_among_sixteen_bit_ones_share_their_range(tmp_path):
    Image.fromarray(picture(9, 13, channels=0)).save(tmp_path / "a.png")
    Image.fromarray(picture(9, 13, channels=0, dtype=np.uint16)).save(tmp_path / "b.png")
    scan = open_scan(tmp_path)
    assert scan.data.dtype == np.uint16
    assert np.array_equal(scan.read_slice(0), picture(9, 13, channels=0).astype(np.uint16) * 257)


def test_a_list_of_photographs_keeps_its_own_order(folder):
    scan = open_scan([folder / "c.png", folder / "a.jpg"])
    assert [scan.slice_name(i) for i in range(2)] == ["c", "a"]
    with pytest.raises(ScanError, match="only photographs"):
        open_scan([folder / "c.png", folder / "notes.txt"])


def test_mask_values_are_translated_and_unknown_ones_refused(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "eye.png")
    scan = open_scan(tmp_path / "eye.png")
    stored = np.full((9, 13), 255, np.uint8)
    stored[2:6, 3:9] = 128
    stored[3:5, 4:6] = 0
    Image.fromarray(stored).save(tmp_path / "mask.png")
    labels = read_mask(tmp_path / "mask.png", scan, labels={255: 0, 128: 1, 0: 2})
    assert np.array_equal(labels == 1, stored == 128)
    assert np.array_equal(labels == 2, stored == 0)
    with pytest.raises(ScanError, match=r"values without a meaning: \[128\]"):
        read_mask(tmp_path / "mask.png", scan, labels={255: 0, 0: 2})


def test_masks_in_colours_or_of_another_size_are_refused(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "eye.png")
    scan = open_scan(tmp_path / "eye.png")
    with pytest.raises(ScanError, match="colour picture"):
        read_mask(tmp_path / "eye.png", scan)
    Image.fromarray(np.zeros((13, 9), np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(ScanError, match="the mask is 13 × 9, the photograph 9 × 13"):
        read_mask(tmp_path / "mask.png", scan)
