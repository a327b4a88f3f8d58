"""θ and the optimiser's state after every step, each one seek away."""

from __future__ import annotations

import json
import tempfile
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch

from .runfolder import write_whole

MEMORY_BYTES = 16 * 2**20
"""A history without a run folder moves to a temporary file beyond this size."""
_SLACK = 8192
"""Room kept for byte tensors (generator states), whose length differs between devices."""


class HistoryError(ValueError):
    """A history that cannot be read, or a step that it does not hold."""


@dataclass(frozen=True)
class _Field:
    """One entry of a snapshot in the flat record."""

    name: str
    kind: str  # "tensor", "bytes" (uint8 tensor of changing length), "int", "float", "bool"
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


class History:
    """Snapshots of a method, one flat record of fixed size a step; number 0 is the source model.

    Without a path the records live in memory up to ``memory`` bytes, and beyond that in a
    temporary file that goes when the history is closed. With a path they are appended to that
    file as the run goes on, with a ``.json`` beside it that says what lies where. All methods may
    be called from any thread.

    Parameters
    ----------
    first : Snapshot
        The state before the first step. A dataclass of tensors and numbers; it gives the layout
        of all records and becomes record 0.
    path : Path, optional
        File to write.
    parameters : list of (name, shape), optional
        What the numbers of ``theta`` are, in order; written for readers of the file.
    """

    def __init__(
        self,
        first: Any,
        path: Path | None = None,
        *,
        parameters: list[tuple[str, list[int]]] | None = None,
        memory: int = MEMORY_BYTES,
    ) -> None:
        self._lock = threading.RLock()
        self._type = type(first)
        self._fields = _layout(first)
        self._size = sum(field.size for field in self._fields)
        self._count = 0
        self._file: BinaryIO
        if path is None:
            self._file = cast(BinaryIO, tempfile.SpooledTemporaryFile(max_size=memory))  # noqa: SIM115
        else:
            _describe(path, self._fields, self._size, parameters)
            self._file = open(path, "w+b")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self.append(first)

    @classmethod
    def open(cls, path: Path, kind: type, *, writable: bool = True) -> History:
        """Open what an earlier run wrote; a record that a crash cut short is left out.

        Parameters
        ----------
        kind : type
            The snapshot's class, called with the stored fields by name.

        Raises
        ------
        HistoryError
            If the file or its description is missing or damaged.
        """
        try:
            described = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            layout = [
                _Field(**{**entry, "shape": tuple(entry["shape"])}) for entry in described["fields"]
            ]
            size = int(described["record_bytes"])
            file = open(path, "r+b" if writable else "rb")  # noqa: SIM115
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HistoryError(
                f"The steps in {path.name} cannot be read ({error}); the run can be looked at but "
                "not resumed."
            ) from error
        history = cls.__new__(cls)
        history._lock = threading.RLock()
        history._type = kind
        history._fields = layout
        history._size = size
        history._count = path.stat().st_size // size
        history._file = file
        weakref.finalize(history, file.close)
        return history

    def __len__(self) -> int:
        return self._count

    @property
    def record_bytes(self) -> int:
        """Bytes that a step takes."""
        return self._size

    @property
    def last_step(self) -> int:
        """The latest step held."""
        return self._count - 1

    def append(self, snapshot: Any) -> None:
        """Keep the state after the next step."""
        record = _encode(snapshot, self._fields, self._size)
        with self._lock:
            self._file.seek(self._count * self._size)
            self._file.write(record)
            self._file.flush()
            self._count += 1

    def __getitem__(self, step: int) -> Any:
        """Return the snapshot after ``step`` steps."""
        return _decode(self._read(step, 0, self._size), self._fields, self._type)

    def theta(self, step: int) -> np.ndarray:
        """Return θ after ``step`` steps: float32 (or the method's own type), shape (n,)."""
        field = next(field for field in self._fields if field.name == "theta")
        data = self._read(step, field.offset, field.size)
        return np.frombuffer(data, dtype=field.dtype).copy()

    def mean_theta(self, steps: Sequence[int]) -> np.ndarray:
        """Return the mean of θ after each of these steps.

        Summed in float64 and in order, so that the mean after a rollback is, bit for bit, the
        one that the run would have had.
        """
        first = self.theta(steps[0])
        total = first.astype(np.float64)
        for step in steps[1:]:
            total += self.theta(step)
        return (total / len(steps)).astype(first.dtype)

    def truncate(self, steps: int) -> None:
        """Forget every step after number ``steps``."""
        with self._lock:
            if steps + 1 < self._count:
                self._file.seek((steps + 1) * self._size)
                self._file.truncate()
                self._file.flush()
                self._count = steps + 1

    def close(self) -> None:
        """Close the file; a temporary one is removed."""
        with self._lock:
            self._file.close()

    def _read(self, step: int, offset: int, size: int) -> bytes:
        with self._lock:
            if not 0 <= step < self._count:
                raise HistoryError(
                    f"Step {step} is not in the history; it holds steps 0 to {self._count - 1}."
                )
            self._file.seek(step * self._size + offset)
            data = self._file.read(size)
        if len(data) != size:
            raise HistoryError(f"The record of step {step} is cut short.")
        return data


def _describe(
    path: Path, layout: list[_Field], size: int, parameters: list[tuple[str, list[int]]] | None
) -> None:
    described = {
        "record_bytes": size,
        "fields": [field.__dict__ for field in layout],
        "parameters": [{"name": name, "shape": list(shape)} for name, shape in parameters or []],
    }
    write_whole(path.with_suffix(".json"), json.dumps(described, indent=1))


def _layout(snapshot: Any) -> list[_Field]:
    layout: list[_Field] = []
    offset = 0
    for entry in fields(snapshot):
        value = getattr(snapshot, entry.name)
        shape: tuple[int, ...] = ()
        if isinstance(value, torch.Tensor) and value.dtype == torch.uint8:
            kind, dtype, size = "bytes", "uint8", 8 + max(_SLACK, value.numel())
        elif isinstance(value, torch.Tensor):
            array = value.detach().cpu().numpy()
            kind, dtype, shape, size = "tensor", array.dtype.str, array.shape, array.nbytes
        elif isinstance(value, bool):
            kind, dtype, size = "bool", "<i8", 8
        elif isinstance(value, int):
            kind, dtype, size = "int", "<i8", 8
        elif isinstance(value, float):
            kind, dtype, size = "float", "<f8", 8
        else:
            raise TypeError(f"A snapshot cannot hold {entry.name}: {type(value).__name__}.")
        layout.append(_Field(entry.name, kind, dtype, shape, offset, size))
        offset += size
    return layout


def _encode(snapshot: Any, layout: list[_Field], size: int) -> bytes:
    record = bytearray(size)
    for field in layout:
        value = getattr(snapshot, field.name)
        if field.kind == "bytes":
            data = value.detach().cpu().contiguous().numpy().tobytes()
            if len(data) > field.size - 8:
                raise TypeError(f"{field.name} of a snapshot grew beyond {field.size - 8} bytes.")
            data = len(data).to_bytes(8, "little") + data
        elif field.kind == "tensor":
            data = value.detach().cpu().contiguous().numpy().astype(field.dtype).tobytes()
            if len(data) != field.size:
                raise TypeError(f"{field.name} of a snapshot changed its size during the run.")
        else:
            data = np.asarray(value, dtype=field.dtype).tobytes()
        record[field.offset : field.offset + len(data)] = data
    return bytes(record)


def _decode(record: bytes, layout: list[_Field], kind: type) -> Any:
    values: dict[str, Any] = {}
    for field in layout:
        data = record[field.offset : field.offset + field.size]
        if field.kind == "bytes":
            length = int.from_bytes(data[:8], "little")
            array = np.frombuffer(data[8 : 8 + length], dtype=np.uint8)
            values[field.name] = torch.from_numpy(array.copy())
        elif field.kind == "tensor":
            array = np.frombuffer(data, dtype=field.dtype).reshape(field.shape)
            values[field.name] = torch.from_numpy(array.copy())
        else:
            number = np.frombuffer(data, dtype=field.dtype)[0]
            convert = {"bool": bool, "int": int, "float": float}[field.kind]
            values[field.name] = convert(number)
    return kind(**values)
