"""What is refused of a file before a scan is made of it, and told of a scan when it is opened."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from napari_grata.scans.scan import ScanError, times

#: One file may not ask for more than this share of the machine's memory.
_MEMORY_SHARE = 0.8
#: Ratio that deflate can reach at best; a file that claims more has a wrong header.
DEFLATE_LIMIT = 1040
#: Intensities beyond this, or closer together than its inverse, are lost in float32.
LARGEST = 1e30
AGAIN = "The file is damaged or not complete: copy or export it again."


@contextlib.contextmanager
def guard(what: str, path: Path, hint: str = AGAIN) -> Iterator[None]:
    """Turn whatever a damaged file makes a library raise into a sentence."""
    try:
        yield
    except (ScanError, PermissionError, FileNotFoundError):
        raise
    except MemoryError as error:
        raise ScanError(
            "this machine has too little free memory for it",
            path,
            "Close other programs, or crop or downsample the scan first.",
        ) from error
    except Exception as error:
        raise ScanError(what, path, hint) from error


@contextlib.contextmanager
def access(path: Path) -> Iterator[None]:
    """Turn what the system says of a file that it does not give into a sentence."""
    try:
        yield
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise ScanError(f"it cannot be read ({why})", path, "Ask for access to it.") from error


def library(name: str, extra: str, what: str, path: Path) -> Any:
    """Return a library of one of our extras; without it, say what cannot be done, and how it can.

    Raises
    ------
    ScanError
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ScanError(
            f"{what}: {name} is not installed",
            path,
            f'Install it: pip install "napari-grata[{extra}]".',
        ) from error


def size_of(path: Path) -> int:
    """Size of a file in bytes. Raises ScanError where it is empty."""
    size = path.stat().st_size
    if size == 0:
        raise ScanError("the file is empty (0 bytes)", path, AGAIN)
    return size


def check_dtype(dtype: np.dtype[Any], where: str | os.PathLike[str]) -> None:
    """Refuse element types that no segmenter can read."""
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        kinds = {
            "c": "complex numbers",
            "V": "colour or compound values",
            "f": "numbers of more than 64 bits",
        }
        kind = kinds.get(dtype.kind, "objects")
        raise ScanError(
            f"its voxels are {kind} ({dtype}), not plain intensities",
            where,
            "Convert it to a plain greyscale image first (for complex data: the magnitude).",
        )


def check_size(shape: tuple[int, ...], itemsize: int, where: str | os.PathLike[str]) -> None:
    """Refuse empty images and images too large for this machine, before anything is allocated."""
    if not shape or min(shape) < 1:
        raise ScanError(
            f"it is empty: the header gives the shape {times(shape)}",
            where,
            "Export it again from where it came.",
        )
    needed = math.prod(shape) * itemsize
    limit = int(memory_bytes() * _MEMORY_SHARE)
    if needed > limit:
        raise ScanError(
            f"it is too large: {times(shape)} needs {needed / 2**30:,.1f} GiB "
            f"and this machine can spare {limit / 2**30:,.1f} GiB",
            where,
            "If that shape is right, crop or downsample it first; if not, the header is damaged.",
        )


def check_content(
    read: Callable[[int], np.ndarray],
    count: int,
    where: str | os.PathLike[str],
    *,
    lazy: bool = False,
) -> tuple[str, ...]:
    """Refuse images without contrast, and tell of pixels that hold no number.

    Reads slices from the middle outwards. Whole numbers are looked at until two of them differ,
    so that mapped files stay mostly unread; floating-point numbers all are, unless `lazy`.

    Returns
    -------
    tuple of str
        Notices for the user.

    Raises
    ------
    ScanError
        Every value is the same, NaN or infinite, or beyond what float32 can tell apart.
    """
    low, high = np.inf, -np.inf
    bad = bad_slices = 0
    for i in sorted(range(count), key=lambda i: abs(i - count // 2)):
        values = np.asarray(read(i))
        least, most = values.min(), values.max()
        if not (np.isfinite(least) and np.isfinite(most)):
            finite = np.isfinite(values)
            missing = values.size - int(np.count_nonzero(finite))
            bad, bad_slices = bad + missing, bad_slices + 1
            if missing == values.size:
                continue
            least, most = values[finite].min(), values[finite].max()
        low, high = min(low, float(least)), max(high, float(most))
        if low < high and (lazy or values.dtype.kind != "f"):
            break
    again = "Export it again from where it came."
    if low > high:
        raise ScanError("it holds no image: every voxel is NaN or infinite", where, again)
    if low == high:
        raise ScanError(
            f"it holds no image: every voxel is {low:g}",
            where,
            "Check that this is the scan and not an empty mask, and export it again.",
        )
    if max(-low, high) > LARGEST or high - low < 1 / LARGEST:
        raise ScanError(
            f"its values run from {low:g} to {high:g}, which no picture can show", where, again
        )
    if not bad:
        return ()
    return (
        f"{bad:,} values in {bad_slices} of {count} slices are no numbers (NaN or infinite): "
        "nothing can be found there.",
    )


def memory_bytes() -> int:
    """Memory of this machine in bytes (a cautious 8 GiB where it cannot be asked)."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 8 * 2**30
