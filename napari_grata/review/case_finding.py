"""Find the scans of a folder that make a list of cases, and leave out what are none."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from napari_grata.scans.dicom_headers import is_dicom
from napari_grata.scans.files import stem
from napari_grata.scans.readers import KINDS, find_scans, is_scan_file
from napari_grata.scans.scan import ScanError

from .cases import Case, ListError
from .list_file import STORE_FILE

MOST_CASES = 5000
MOST_FOLDERS = 20_000
IMAGE_FOLDERS = re.compile(r"^(images?|imgs?|scans?)(tr|ts|va)?$", re.IGNORECASE)
MASK_FOLDERS = re.compile(
    r"(^|[\W_])(\d*(st|nd)?_?manuals?\d*|masks?|labels?(tr|ts|va)?|ground[\W_]*truths?|gts?|"
    r"annotations?|segmentations?|segs?|contours?|predictions?)\d*($|[\W_])",
    re.IGNORECASE,
)
_MASK_WORD = re.compile(
    r"^(?P<before>.+?)[\W_]+(masks?|labels?|gt|groundtruth|ground_truth|seg|segmentation|manual\d*|"
    r"annotation|aseg)\d*$",
    re.IGNORECASE,
)
_OURS = {"before_after.png", "curves.png"}


def natural_key(path: Path | str) -> tuple[tuple[tuple[int, int, str], ...], ...]:
    """Sort key that puts ``case 2`` before ``case 10``, folder by folder."""
    return tuple(
        tuple(
            (0, int(bit), "") if bit.isdecimal() else (1, 0, bit.casefold()) for bit in bits if bit
        )
        for bits in (re.split(r"(\d+)", part) for part in Path(path).parts)
    )


def find_sources(root: Path) -> list[Path]:
    """Find the scans of a folder and of the folders in it, in natural order of their names.

    A DICOM series is one scan, under the name of the file that it opens by.

    Left out are: hidden files, folders whose name says masks, masks beside their scan
    (``x_mask.png`` beside ``x.png``), DICOM and 3D Slicer segmentations, and what this program
    wrote itself. Where ``images`` lies beside ``masks``, only ``images`` is gone into.

    Raises
    ------
    ListError
        If there are none, or far too many.
    """
    found: list[Path] = []
    left_out = 0

    def complain(error: OSError) -> None:
        # A folder further down that may not be read costs its own scans, not the list.
        if Path(error.filename or root) == root:
            raise ListError(
                f"The folder {root.name or root} cannot be read ({error.strerror}). Check that it "
                "is there and may be opened."
            ) from error

    for folders, (where, names, files) in enumerate(os.walk(root, onerror=complain), start=1):
        if folders > MOST_FOLDERS or len(found) > MOST_CASES:
            raise ListError(
                f"There are more than {MOST_CASES if len(found) > MOST_CASES else MOST_FOLDERS} "
                f"{'scans' if len(found) > MOST_CASES else 'folders'} below {root.name or root}. "
                "Choose a folder further down."
            )
        if "run.sqlite" in files or STORE_FILE in files:  # a run folder, or that of a list
            names.clear()
            continue
        visible = [name for name in names if not name.startswith(".")]
        masks = [name for name in visible if MASK_FOLDERS.search(name)]
        images = [name for name in visible if IMAGE_FOLDERS.match(name)]
        try:
            here = find_scans([Path(where, name) for name in sorted(files)])
        except ScanError as error:
            raise ListError(str(error)) from error
        if masks and images:
            left_out += len(here)
            names[:] = images
            continue
        left_out += len(masks)
        names[:] = [name for name in visible if name not in masks]
        kept = [path for path in here if not _is_mask_beside(path, here) and not _is_result(path)]
        left_out += len(here) - len(kept)
        found += kept
    if not found:
        more = (
            " What is there looks like masks or results of this program; to take such files all "
            "the same, choose the files themselves."
            if left_out
            else f" Choose a folder with {KINDS}."
        )
        raise ListError(f"There are no scans in {root.name or root}.{more}")
    return sorted(found, key=lambda path: natural_key(path.relative_to(root)))


def _is_mask_beside(path: Path, others: Sequence[Path]) -> bool:
    match = _MASK_WORD.match(stem(path))
    if match is None:
        return False
    scan = match["before"].casefold()
    return any(stem(other).casefold() == scan for other in others if other != path)


def _is_result(path: Path) -> bool:
    """What ``napari-grata adapt`` writes beside its run folder."""
    if path.name in _OURS:
        return True
    if stem(path) not in ("source", "adapted"):
        return False
    return (path.parent / "run" / "run.sqlite").exists()


def identity_of(roots: Sequence[Path]) -> str:
    """Return what a list was made of, as a fingerprint."""
    names = sorted(os.path.normcase(os.path.realpath(root)) for root in roots)
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogatepass")).hexdigest()


def sources_of(roots: Sequence[Path]) -> list[Path]:
    """Return the scans of folders and files, each once; of a DICOM series, one of its files."""
    found: dict[Path, None] = {}
    slices = {root for root in roots if os.path.isfile(root) and is_dicom(root)}
    try:
        series = set(find_scans(sorted(slices)))
    except ScanError as error:
        raise ListError(str(error)) from error
    if slices and not series:
        raise ListError(f"{min(slices).name} is no scan. Choose the files of a DICOM series.")
    for root in roots:
        if os.path.isdir(root):
            found.update(dict.fromkeys(find_sources(root)))
        elif not os.path.exists(root):
            raise ListError(f"There is no file or folder called {root.name}. Check its name.")
        elif not is_scan_file(root):
            raise ListError(f"{root.name} is no scan that can be read. Choose {KINDS}.")
        elif root in series or root not in slices:
            found[root] = None
    return list(found)


def numbered(sources: Sequence[tuple[Path, ...]], first: int, roots: Sequence[Path]) -> list[Case]:
    """Make cases of files, or of photographs that are looked at together, from a number on."""
    names = Counter(stem(paths[0]) for paths in sources if paths)
    cases = []
    for number, paths in enumerate(sources, start=first):
        title = stem(paths[0]) if paths else "scan"
        if len(paths) > 1:
            title = f"{title} and {len(paths) - 1} more"
        elif names[title] > 1:
            # Centres side by side hold files of the same names.
            inner = (paths[0].relative_to(r) for r in roots if paths[0].is_relative_to(r))
            folder = next(inner, Path(*paths[0].parts[-2:])).parent
            title = (folder / title).as_posix()
        cases.append(Case(f"case-{number:04d}", number, tuple(paths), title))
    return cases
