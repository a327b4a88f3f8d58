"""Masks over scans of every kind, written and read back. Oracles: nibabel and Pillow."""

from __future__ import annotations

import gzip
from pathlib import Path
from random import Random
from typing import Any

import nibabel as nib
import numpy as np
import tifffile
from PIL import Image, PngImagePlugin

from napari_grata.scans import Scan, ScanError, open_scan, read_mask, write_mask

from . import damaged, expect, nifti, photographs

ORIENTATION = 274


def trial(random: Random, folder: Path) -> None:
    """Write a mask, look at it with other eyes, read it back; damage it and read it again."""
    rng = np.random.default_rng(random.randrange(2**32))
    scan = _scan(random, rng, folder)
    labels = rng.integers(0, random.choice((2, 4, 256)), scan.mask_shape, dtype=np.uint8)
    if scan.is_list:
        labels = _within(scan, labels)
    target = scan.mask_path(folder, "mask")
    names = random.random() < 0.5
    written = write_mask(labels, scan, target, scan_names=names)
    for i, path in enumerate(written):
        expect(nifti.PLANTED not in _unpacked(path), "a name is in the mask")
        expect(np.array_equal(_stored(path), _wanted(scan, labels, i)), "other labels are stored")
    expect(names or not any("DOE" in path.name for path in written), "a name is in a mask's name")
    expect(np.array_equal(read_mask(target, scan), labels), "other labels are read back")
    if random.random() < 0.4:
        return
    path = random.choice(written)
    path.write_bytes(damaged(random, path.read_bytes()))
    found = read_mask(target, scan)
    if not np.array_equal(found, labels):
        k = written.index(path)
        theirs = _stored(path)
        expect(np.array_equal(theirs, _wanted(scan, found, k)), "a damaged mask is read otherwise")


def _scan(random: Random, rng: np.random.Generator, folder: Path) -> Scan:
    """A scan that opens."""
    while True:
        for path in folder.iterdir():
            path.unlink()
        try:
            if random.random() < 0.6:
                return open_scan(nifti.make(random, folder, damage=0.1).path)
            if random.random() < 0.5:
                return open_scan(photographs.make(random, folder, damage=0).path)
            paths = [_named(rng, folder, k) for k in range(random.randrange(2, 5))]
            return open_scan(paths)
        except ScanError:
            continue


def _named(rng: np.random.Generator, folder: Path, k: int) -> Path:
    """A photograph full of names: in its own name, its texts, its EXIF."""
    image = photographs.picture(rng, "RGB")
    exif = Image.Exif()
    exif[ORIENTATION] = int(rng.integers(1, 9))
    exif[270] = exif[315] = nifti.PLANTED.decode()
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Title", nifti.PLANTED.decode())
    path = folder / f"DOE {k}.png"
    image.save(path, exif=exif, pnginfo=texts)
    return path


def _within(scan: Scan, labels: np.ndarray) -> np.ndarray:
    """Labels that lie within the photographs only, not on what fills smaller ones up."""
    kept = np.zeros_like(labels)
    for i in range(scan.n_slices):
        scan.put_mask(kept, i, scan.get_mask(labels, i))
    return kept


def _wanted(scan: Scan, labels: np.ndarray, i: int) -> np.ndarray:
    """Labels as they have to be stored in the scan's `i`-th mask."""
    if scan.is_list:
        return np.asarray(scan.slice_geometry(i).to_source(scan.get_mask(labels, i)))
    return np.asarray(scan.geometry.to_source(labels))


def _stored(path: Path) -> np.ndarray:
    """The numbers in a mask's file, as other libraries see them."""
    if path.name.endswith((".nii", ".nii.gz")):
        image: Any = nib.load(path)
        return np.asanyarray(image.dataobj)
    if path.suffix == ".tif":
        return tifffile.imread(path)
    with Image.open(path) as image:
        return np.array(image)


def _unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data
