"""The events of a run, kept so that each can be had back with its masks."""

from __future__ import annotations

import csv
import io
import math
import os
import struct
import tempfile
import threading
import weakref
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast, overload

import numpy as np

from .records import Flag, Record

STEPS_FILE = "steps.csv"
SOURCE_FILE = "source_masks.bin"
ADAPTED_FILE = "adapted_masks.bin"
_MEMORY_BYTES = 16 * 2**20
_HEADER = struct.Struct("<4siiiiI")  # mark, slice, event, rows, columns, bytes that follow
_MARK = b"MASK"
_NO_MASK = np.zeros((0, 0), dtype=np.uint8)
_PLAIN = ("phase", "step", "done", "total", "slice_index", "case", "pass_index")
_FIGURES = ("cosine", "learning_rate", "auxiliary_loss", "pseudo_loss")
_NORMS = ("auxiliary_norm", "pseudo_norm")
_TABLES = ("source_area", "adapted_area", "agreement")
_REST = ("undone", "final", "seconds", "flags", "flag_texts")


@dataclass(frozen=True)
class MaskAddress:
    """Where a packed mask lies, and which one it is."""

    slice_index: int
    event: int
    shape: tuple[int, int]
    offset: int
    size: int


class MaskFile:
    """Label maps, packed and appended one after another; with no path, in a temporary file."""

    def __init__(self, path: Path | None, *, mode: str = "w+b") -> None:
        self._lock = threading.RLock()
        self._file: BinaryIO
        if path is None:
            self._file = cast(BinaryIO, tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES))  # noqa: SIM115
        else:
            self._file = cast(BinaryIO, open(path, mode))  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._end = 0

    def append(self, slice_index: int, event: int, mask: np.ndarray) -> MaskAddress:
        """Keep one (H, W) label map."""
        packed = zlib.compress(np.ascontiguousarray(mask, dtype=np.uint8).tobytes(), 1)
        rows, columns = mask.shape
        with self._lock:
            offset = self._end + _HEADER.size
            self._file.seek(self._end)
            header = _HEADER.pack(_MARK, slice_index, event, rows, columns, len(packed))
            self._file.write(header + packed)
            self._file.flush()
            self._end = offset + len(packed)
        return MaskAddress(slice_index, event, (rows, columns), offset, len(packed))

    def read(self, address: MaskAddress) -> np.ndarray:
        """Return the label map at an address, read-only."""
        with self._lock:
            self._file.seek(address.offset)
            data = zlib.decompress(self._file.read(address.size))
        return np.frombuffer(data, dtype=np.uint8).reshape(address.shape)

    def scan(self) -> Iterator[MaskAddress]:
        """Go over all whole masks; what a crash cut short ends the file."""
        with self._lock:
            length = self._file.seek(0, os.SEEK_END)
            self._end = 0
            while self._end + _HEADER.size <= length:
                self._file.seek(self._end)
                mark, index, event, rows, columns, size = _HEADER.unpack(
                    self._file.read(_HEADER.size)
                )
                offset = self._end + _HEADER.size
                if mark != _MARK or offset + size > length:
                    break
                self._end = offset + size
                yield MaskAddress(index, event, (rows, columns), offset, size)

    def truncate(self, end: int) -> None:
        """Drop everything from byte `end` on."""
        with self._lock:
            self._file.seek(end)
            self._file.truncate()
            self._file.flush()
            self._end = end

    def close(self) -> None:
        self._file.close()


class Journal(Sequence[Record]):
    """All records of a run, masks on demand, so that a long run stays small in memory.

    Parameters
    ----------
    structures : sequence of str
        Names of the card's structures: columns of ``steps.csv``.
    folder : Path, optional
        Run folder; rows and masks are appended there as they come.

    Attributes
    ----------
    source_masks : dict of int to ndarray
        Source label map of each slice seen so far, read-only.
    """

    def __init__(self, structures: Sequence[str], folder: Path | None = None) -> None:
        self._start(structures, folder, "w+b")
        if self._rows is not None:
            self._rows.write(_line(self.columns))
            self._rows.flush()

    def _start(self, structures: Sequence[str], folder: Path | None, mode: str) -> None:
        self.structures = tuple(structures)
        self.columns = (
            *_PLAIN,
            *_FIGURES,
            *_NORMS,
            *(f"{table}:{name}" for table in _TABLES for name in self.structures),
            *_REST,
        )
        self.source_masks: dict[int, np.ndarray] = {}
        self._lock = threading.RLock()
        self._entries: list[tuple[Record, MaskAddress]] = []
        self._ends: list[int] = []  # byte of steps.csv at which each row begins
        self._source = MaskFile(folder and folder / SOURCE_FILE, mode=mode)
        self._adapted = MaskFile(folder and folder / ADAPTED_FILE, mode=mode)
        self._rows: BinaryIO | None = None
        if folder is not None:
            self._rows = cast(BinaryIO, open(folder / STEPS_FILE, mode))  # noqa: SIM115
            weakref.finalize(self, self._rows.close)

    @classmethod
    def open(cls, folder: Path, *, writable: bool = True, length: int | None = None) -> Journal:
        """Open the journal of a run folder, without what a crash left half-written.

        Parameters
        ----------
        writable : bool
            Go on with it; otherwise nothing in the folder is touched.
        length : int, optional
            Leave out what comes after so many records.

        Raises
        ------
        OSError, ValueError
            If ``steps.csv`` is missing or has not the columns of a run.
        """
        data = (folder / STEPS_FILE).read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.decode("utf-8").splitlines(keepends=True)
        header = next(csv.reader([lines[0]])) if lines else []
        structures = [name.split(":", 1)[1] for name in header if name.startswith("agreement:")]
        journal = cls.__new__(cls)
        journal._start(structures, folder, "r+b" if writable else "rb")
        if tuple(header) != journal.columns:
            raise ValueError(f"{STEPS_FILE} has other columns than a run writes.")
        for address in journal._source.scan():
            journal.source_masks[address.slice_index] = journal._source.read(address)
        adapted = {address.event: address for address in journal._adapted.scan()}
        position = len(lines[0].encode("utf-8"))
        for number, line in enumerate(lines[1:], start=1):
            if len(journal._entries) == length:
                break
            values = dict(zip(header, next(csv.reader([line])), strict=False))
            try:
                record = _from_row(values, journal.structures)
                address = adapted[number]
            except (KeyError, ValueError):
                break
            if record.slice_index not in journal.source_masks:
                break
            journal._entries.append((record, address))
            journal._ends.append(position)
            position += len(line.encode("utf-8"))
        if writable:
            assert journal._rows is not None
            journal._rows.truncate(position)
            last = journal._entries[-1][1] if journal._entries else None
            journal._adapted.truncate(last.offset + last.size if last else 0)
        return journal

    def keep_source(self, slice_index: int, mask: np.ndarray) -> None:
        """Keep the source mask of a slice; records of that slice share it."""
        mask = np.array(mask, dtype=np.uint8)
        mask.flags.writeable = False
        with self._lock:
            self.source_masks[slice_index] = mask
            self._source.append(slice_index, 0, mask)

    def append(self, record: Record) -> None:
        """Keep a record: the mask first, then the row, so that a row's mask is always there."""
        with self._lock:
            address = self._adapted.append(
                record.slice_index, len(self._entries) + 1, record.adapted_mask
            )
            light = replace(record, source_mask=_NO_MASK, adapted_mask=_NO_MASK)
            if self._rows is not None:
                self._ends.append(self._rows.seek(0, os.SEEK_END))
                self._rows.write(_line(_to_row(record, self.structures)))
                self._rows.flush()
            self._entries.append((light, address))

    def truncate(self, length: int) -> None:
        """Forget every record from number `length` on."""
        with self._lock:
            if length >= len(self._entries):
                return
            if self._rows is not None:
                self._rows.truncate(self._ends[length])
                self._rows.flush()
                del self._ends[length:]
            self._adapted.truncate(self._entries[length][1].offset - _HEADER.size)
            del self._entries[length:]

    def without_masks(self) -> list[Record]:
        """All records with empty masks: what curves and tables need, at no cost."""
        return [record for record, _ in self._entries]

    def latest_masks(self, length: int) -> dict[int, np.ndarray]:
        """Adapted mask of each slice as of the first `length` records."""
        with self._lock:
            found = {record.slice_index: address for record, address in self._entries[:length]}
            return {index: self._adapted.read(address) for index, address in found.items()}

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, number: int) -> Record: ...
    @overload
    def __getitem__(self, number: slice) -> list[Record]: ...
    def __getitem__(self, number: int | slice) -> Record | list[Record]:
        if isinstance(number, slice):
            return [self[index] for index in range(*number.indices(len(self)))]
        with self._lock:
            record, address = self._entries[number]
            return replace(
                record,
                source_mask=self.source_masks[record.slice_index],
                adapted_mask=self._adapted.read(address),
            )

    def close(self) -> None:
        """Close the files; temporary ones are removed."""
        self._source.close()
        self._adapted.close()
        if self._rows is not None:
            self._rows.close()


def _line(values: Sequence[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode("utf-8")


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else repr(float(value))
    return int(value) if isinstance(value, bool) else value


def _to_row(record: Record, structures: Sequence[str]) -> list[Any]:
    return [
        *(_cell(getattr(record, name)) for name in (*_PLAIN, *_FIGURES)),
        *(_cell(norm) for norm in record.gradient_norms),
        *(_cell(getattr(record, table).get(name)) for table in _TABLES for name in structures),
        _cell(record.undone),
        _cell(record.final),
        _cell(round(record.seconds, 4)),
        "; ".join(flag.code for flag in record.flags),
        " | ".join(" ".join(flag.text.replace("|", "/").split()) for flag in record.flags),
    ]


def _from_row(values: dict[str, str], structures: Sequence[str]) -> Record:
    def number(name: str) -> float | None:
        return float(values[name]) if values[name] else None

    def table(name: str, convert: type) -> dict[str, Any]:
        cells = {structure: values[f"{name}:{structure}"] for structure in structures}
        return {structure: convert(cell) for structure, cell in cells.items() if cell}

    codes = values["flags"].split("; ") if values["flags"] else []
    texts = values["flag_texts"].split(" | ") if codes else []
    return Record(
        phase="adapt" if values["phase"] == "adapt" else "predict",
        **{name: int(values[name]) for name in _PLAIN[1:]},
        source_mask=_NO_MASK,
        adapted_mask=_NO_MASK,
        cosine=number("cosine"),
        learning_rate=number("learning_rate"),
        auxiliary_loss=number("auxiliary_loss"),
        pseudo_loss=number("pseudo_loss"),
        gradient_norms=(number("auxiliary_norm"), number("pseudo_norm")),
        source_area=table("source_area", int),
        adapted_area=table("adapted_area", int),
        agreement=table("agreement", float),
        flags=tuple(Flag(code, text) for code, text in zip(codes, texts, strict=True)),
        undone=values["undone"] == "1",
        final=values["final"] == "1",
        seconds=float(values["seconds"]),
    )
