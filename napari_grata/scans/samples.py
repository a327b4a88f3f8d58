"""The scans that ship with the plugin: as they are, and as another scanner would show them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from napari_grata.scans.scan import ScanError

_PACKAGE = "napari_grata.sample_data"


@dataclass(frozen=True)
class Sample:
    """A scan that ships with the plugin.

    Attributes
    ----------
    key : str
        Short name, e.g. for ``napari-grata demo --sample KEY``.
    title : str
        Name for people.
    path : Path
        The scan.
    reference : Path or None
        A label map of the model's structures, where one can honestly be had.
    model : str
        Bundled model that reads it.
    simulated : bool
        Whether another scanner was simulated.
    note : str
        Where it comes from and what was done to it, one or two sentences.
    """

    key: str
    title: str
    path: Path
    reference: Path | None
    model: str
    simulated: bool
    note: str


@cache
def list_samples() -> list[Sample]:
    """Return the samples in the order of the menu; nothing is read but their list."""
    folder = Path(str(files(_PACKAGE)))
    found = []
    for entry in json.loads((folder / "samples.json").read_text(encoding="utf-8")):
        file, reference = entry.pop("file"), entry.pop("reference")
        place = folder / reference if reference else None
        found.append(Sample(path=folder / file, reference=place, **entry))
    return found


def find_sample(key: str) -> Sample:
    """Return the sample of this key."""
    for sample in list_samples():
        if sample.key == key:
            return sample
    known = ", ".join(sample.key for sample in list_samples())
    raise ScanError(f"there is no sample {key!r}", None, f"Samples are: {known}.")
