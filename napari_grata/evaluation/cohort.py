"""Labelled scans of several centres in one folder: ``DATA/<centre>/images`` and ``…/masks``.

An image and its mask share their file stem; a DICOM series is a folder in ``images``, and its
mask has the folder's name. Each centre is one stream in file-name order. Or the
lists that GraTa and VPTTA were measured with lie in the folder: ``<centre>_train.csv`` and
``<centre>_test.csv`` (or ``<centre>.csv``) with columns ``image`` and ``mask``, paths from the
folder on. Then a centre is one stream in the order of its lists, *train* first.
"""

from __future__ import annotations

import csv
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from napari_grata.scans import ScanError, dicom
from napari_grata.scans.dicom_series import is_choice, series_at
from napari_grata.scans.files import stem
from napari_grata.scans.photographs import is_photograph
from napari_grata.scans.readers import KINDS, is_scan_file, reader_of, scans_in, shape_of
from napari_grata.scans.scan import times

_PAIRS = 'Write pairs of whole numbers, such as "255:0,128:1,0:2".'
_NAMED = 5  # how many files an error message lists before it only counts


class CohortError(ScanError):
    """Something in a labelled cohort that keeps it from being measured, and what to do."""


@dataclass(frozen=True)
class Case:
    """One image and its mask."""

    name: str
    image: Path
    mask: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that the image and the mask are read from."""
        images = series_at(self.image).files if _is_dicom(self.image) else (self.image,)
        return (*images, self.mask)


@dataclass(frozen=True)
class Centre:
    """One centre: its cases in stream order, all photographs or all volumes."""

    name: str
    kind: Literal["photographs", "volumes"]
    cases: tuple[Case, ...]

    def in_order(self, order: int) -> Centre:
        """Return this centre with its cases in another order; 0 is its own, others are drawn."""
        cases = list(self.cases)
        if order:
            random.Random(f"{self.name} {order}").shuffle(cases)
        return replace(self, cases=tuple(cases))


@dataclass(frozen=True)
class Cohort:
    """All centres of one folder, in name order if no other is asked for.

    ``notes`` says what was left aside, such as masks that no image belongs to.
    """

    folder: Path
    centres: tuple[Centre, ...]
    notes: tuple[str, ...] = ()

    def joined(self) -> Cohort:
        """Return the cases of all centres as one stream, centre after centre."""
        kinds = {centre.kind for centre in self.centres}
        if len(kinds) > 1:
            raise CohortError("photographs and volumes do not go into one stream", self.folder)
        cases = tuple(
            replace(case, name=f"{centre.name}/{case.name}")
            for centre in self.centres
            for case in centre.cases
        )
        name = "+".join(centre.name for centre in self.centres)
        return replace(self, centres=(Centre(name, kinds.pop(), cases),))


def parse_labels(text: str) -> dict[int, int]:
    """Read a mapping of mask values to label values, such as ``"255:0,128:1,0:2"``.

    Raises
    ------
    CohortError
        If a pair is not two whole numbers from 0 to 255 (65535 on the left), or a value of the
        mask is named twice.
    """
    labels: dict[int, int] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        left, colon, right = (part.strip() for part in pair.partition(":"))
        if not (colon and left.isdigit() and right.isdigit()):
            raise CohortError(f"{pair!r} in the labels is not VALUE:LABEL", hint=_PAIRS)
        value, label = int(left), int(right)
        if value > 65535 or label > 255:
            raise CohortError(f"{pair!r} in the labels is out of range (65535:255 at most)")
        if value in labels:
            raise CohortError(f"the labels name the mask value {value} twice", hint=_PAIRS)
        labels[value] = label
    if not labels:
        raise CohortError("the labels are empty", hint=_PAIRS)
    return labels


def open_cohort(data: str | Path, centres: Iterable[str] | None = None) -> Cohort:
    """Find the centres of a folder, and check that every image has a mask on its grid.

    Only names and headers are read.

    Parameters
    ----------
    data : path
        Holds ``<centre>/images`` and ``<centre>/masks``, or lists; what else it holds is left
        aside.
    centres : names, optional
        Keep these centres only, in this order.

    Raises
    ------
    CohortError
        If there is nothing to measure, or a centre is not complete; the message names the files.
    """
    folder = Path(data)
    if not folder.is_dir():
        raise CohortError("this is not a folder", folder, "Name one that holds <centre>/images.")
    lists = _lists(folder)
    found = sorted(sub for sub in folder.iterdir() if (sub / "images").is_dir())
    if not (lists or found):
        if (folder / "images").is_dir():
            raise CohortError("this looks like one centre", folder, "Name the folder above it.")
        raise CohortError(
            "there is no <centre>/images in this folder",
            folder,
            "Put each centre into a folder with images/ and masks/, same file stem in both.",
        )
    names = list(lists) or [sub.name for sub in found]
    wanted = list(dict.fromkeys(centres or ())) or names
    missing = [name for name in wanted if name not in names]
    if missing:
        raise CohortError(
            f"there is no centre {_listed(missing)}", folder, f"It has: {', '.join(names)}."
        )
    notes: list[str] = []
    opened = tuple(
        _of_lists(folder, name, lists[name]) if lists else _open_centre(folder / name, notes)
        for name in wanted
    )
    return Cohort(folder, opened, tuple(notes))


def _lists(folder: Path) -> dict[str, list[Path]]:
    """Return the lists of images and masks that lie in a folder, by centre."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.csv")):
        if not {"image", "mask"} <= set(_table(path).fieldnames or ()):
            continue
        name = path.stem.removesuffix("_train").removesuffix("_test")
        # Reversed, test comes before train.
        found.setdefault(name, []).insert(0, path)
    return found


def _table(path: Path) -> csv.DictReader[str]:
    """Rows of a list; some spreadsheets write semicolons."""
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    return csv.DictReader(lines, delimiter=";" if lines and "," not in lines[0] else ",")


def _of_lists(folder: Path, name: str, lists: Sequence[Path]) -> Centre:
    pairs = []
    for path in lists:
        for number, row in enumerate(_table(path), 2):
            cells = [(row[one] or "").strip() for one in ("image", "mask")]
            if not all(cells):
                raise CohortError(f"line {number} names no image or no mask", path, "Fill both in.")
            image, mask = (folder / cell for cell in cells)
            if mask.suffix == ".tif" and not mask.is_file():
                # RIM-ONE: of several readers the first.
                mask = mask.with_name(f"{mask.stem}-1.tif")
            pairs.append((image, mask))
    lost = [path.name for path, _ in pairs if not (path.exists() or is_choice(path))]
    lost += [path.name for _, path in pairs if not path.is_file()]
    if lost or not pairs:
        raise CohortError(
            f"{len(lost)} of its files are not there: {_listed(lost)}" if lost else "it is empty",
            lists[0],
            "The paths of a list go from the folder that it lies in.",
        )
    twice = Counter(_name(image) for image, _ in pairs)
    cases = []
    for image, mask in pairs:
        own = _name(image)
        if twice[own] > 1:
            own = (image.relative_to(folder) if image.is_relative_to(folder) else image).as_posix()
        cases.append(Case(own, image, mask))
    return _centre(folder, name, cases)


def _open_centre(folder: Path, notes: list[str]) -> Centre:
    images = _by_name(folder / "images", scans_in(folder / "images"))
    if not images:
        raise CohortError(
            "there are no images in this folder",
            folder / "images",
            f"Images are {KINDS}.",
        )
    if not (folder / "masks").is_dir():
        raise CohortError(
            "there are images but no folder masks/ beside them",
            folder,
            "Add it, with a mask of the same file stem for each image.",
        )
    masks = _by_name(
        folder / "masks",
        [p for p in sorted((folder / "masks").iterdir()) if p.is_file() and is_scan_file(p)],
    )
    without = [path.name for name, path in images.items() if name not in masks]
    if without:
        raise CohortError(
            f"{len(without)} of {len(images)} images have no mask of the same file stem: "
            f"{_listed(without)}",
            folder,
            "Add the masks, or move the images away.",
        )
    spare = [path.name for name, path in masks.items() if name not in images]
    if spare:
        notes.append(f"{folder.name}: masks without an image are left aside: {_listed(spare)}.")
    cases = [Case(name, image, masks[name]) for name, image in images.items()]
    return _centre(folder, folder.name, cases)


def _centre(folder: Path, name: str, cases: Sequence[Case]) -> Centre:
    """Return a centre whose cases are of one kind, each with a mask on its grid."""
    kinds = {is_photograph(case.image) for case in cases}
    if len(kinds) > 1:
        raise CohortError(
            "photographs and volumes are mixed, and one stream holds one kind",
            folder,
            "Put them into two centres.",
        )
    for case in cases:
        _check_grid(name, case)
    return Centre(name, "photographs" if kinds.pop() else "volumes", tuple(cases))


def _is_dicom(path: Path) -> bool:
    """Whether a name opens a DICOM series: its folder, one of its files, ``FOLDER#2``."""
    return path.is_dir() or reader_of(path) is dicom


def _name(path: Path) -> str:
    """File stem, of a mask without what says that it is one; of a folder its whole name."""
    return path.name if path.is_dir() else stem(path).removesuffix(".seg")


def _by_name(folder: Path, paths: Iterable[Path]) -> dict[str, Path]:
    """Return the scans or masks of a folder by name, in the order given."""
    found: dict[str, Path] = {}
    for path in paths:
        other = found.setdefault(_name(path), path)
        if other != path:
            raise CohortError(
                f"{other.name} and {path.name} share a file stem",
                folder,
                "Keep one file for each stem.",
            )
    return found


def _check_grid(centre: str, case: Case) -> None:
    """Compare the headers of an image and its mask, so that a long run does not end half-way."""
    image = shape_of(case.image)
    # A DICOM segmentation holds the slices that something lies in: reading it will tell.
    mask = image if _is_dicom(case.mask) else shape_of(case.mask)
    # A photograph's header may be turned by its EXIF tag: the same sides in any order pass here,
    # and a true mismatch is met when the mask is read.
    if len(image) != len(mask) or sorted(image) != sorted(mask):
        raise CohortError(
            f"{case.image.name} is {times(image)}, its mask {case.mask.name} is {times(mask)}",
            centre,
            "A mask must lie on the grid of its image.",
        )


def _listed(items: Sequence[object]) -> str:
    shown = ", ".join(str(item) for item in items[:_NAMED])
    return shown + (f" and {len(items) - _NAMED} more" if len(items) > _NAMED else "")
