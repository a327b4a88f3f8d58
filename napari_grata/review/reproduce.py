"""Do a run again: as a command line to keep, and for real, with the masks compared."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_grata.adaptation.plan import describe_slices
from napari_grata.adaptation.settings import PRESETS, Settings

if TYPE_CHECKING:
    from napari_grata.adaptation import Record, ReopenedRun
    from napari_grata.adaptation.run import AdaptationRun
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Segmenter


class ReproduceError(ValueError):
    """A run that cannot be done again; the message says what is missing."""


def scan_sources(scan: Scan) -> list[Path]:
    """Return the files that a scan was opened from, as `open_scan` takes them; may be empty."""
    if scan.path is not None:
        return [Path(scan.path)]
    paths = [scan.slice_path(index) for index in range(scan.n_slices)]
    return [Path(path) for path in paths if path is not None]


def adapt_command(
    scan: Scan,
    model: str,
    settings: Settings,
    *,
    slices: Sequence[int] | None = None,
    region: Sequence[int] | None = None,
) -> str:
    """Return the command line that makes the same masks from the same scan.

    Parameters
    ----------
    scan : Scan
        From files; its paths are in the command, and may name a patient.
    model : str
        Name, or folder with a card.
    slices : sequence of int, optional
        Flat numbers in the order of the run; all by default.
    region : (row0, col0, row1, col1), optional

    Raises
    ------
    ReproduceError
        If the scan came from no file: a command line could not find it.
    """
    sources, others = scan_sources(scan), [scan_sources(other) for other in scan.channels]
    if not sources or not all(others):
        raise ReproduceError(
            "This scan came from no file, so no command line can open it. Save it first, or save "
            "the run with its folder and use “napari-grata again”."
        )
    words = ["napari-grata", "adapt", *(str(path) for path in sources), "--model", model]
    for other in others:
        words += ["--channel", str(other[0])]
    words += _settings_words(settings)
    words += ["--seed", str(settings.seed)]
    if slices is not None and list(slices) != list(range(scan.n_slices)):
        words += ["--slices", describe_slices(list(slices), scan)]
    if region is not None:
        words += ["--region", ",".join(str(int(side)) for side in region)]
    return _quoted([*words, "--out", "out/again"])


def again_command(folder: Path) -> str:
    """Return the command line that does a saved run again and compares the masks."""
    return _quoted(["napari-grata", "again", str(folder), "--out", "out/again"])


def _quoted(words: Sequence[str]) -> str:
    if os.name == "nt":
        import subprocess

        return subprocess.list2cmdline(words)
    return shlex.join(words)


def _settings_words(settings: Settings) -> list[str]:
    """Return the preset that is nearest, and what differs from it."""
    wanted = settings.to_dict()

    def changes(name: str) -> list[str]:
        there = PRESETS[name].settings.to_dict()
        return [
            f"{key}={_text(value)}"
            for key, value in wanted.items()
            if key != "seed" and there[key] != value
        ]

    name = min(PRESETS, key=lambda preset: len(changes(preset)))
    words = ["--method", name]
    for change in changes(name):
        words += ["--set", change]
    return words


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else repr(value).strip("'")


@dataclass(frozen=True)
class Comparison:
    """How the masks of a run that was done again compare with those of the first time.

    Attributes
    ----------
    folder : Path or None
        Of the new run: not the one asked for where that held something.
    slices : int
        Slices that have a mask both times.
    different_pixels : int
        Pixels whose label differs, over all of them.
    only_one : int
        Slices that have a mask only once.
    chosen : int
        Slices that are left out, for a few reviewed ones decided whose masks are used there.
    """

    folder: Path | None
    slices: int
    different_pixels: int
    only_one: int
    chosen: int = 0

    @property
    def same(self) -> bool:
        """Whether every mask is the same, bit for bit."""
        return not self.different_pixels and not self.only_one

    def __str__(self) -> str:
        if self.same:
            said = f"The same masks as the first time, on all {self.slices} of {self.slices}."
            if self.chosen:
                said += (
                    f" {self.chosen} more were chosen on reviewed slices and are not compared: "
                    "this run did not make them, and run.json says how they were chosen."
                )
            return said
        said = f"{self.different_pixels} pixels differ on {self.slices} masks"
        if self.only_one:
            said += f"; {self.only_one} are there only once"
        return f"{said}. Another machine, device or version of torch rounds differently."


def run_again(
    saved: ReopenedRun, segmenter: Segmenter, folder: Path
) -> Iterator[Record | Comparison]:
    """Do a saved run again from its beginning, as far as it went, and compare the masks after.

    Parameters
    ----------
    segmenter : Segmenter
        The model of the run.
    folder : Path
        Where the new run is kept.

    Yields
    ------
    Record, and last Comparison

    Raises
    ------
    ReproduceError
        If the scan was not found, or the model is another one.
    """
    from napari_grata.adaptation.run import AdaptationRun

    if saved.scan is None or saved.corrections is None:
        raise ReproduceError(" ".join(saved.missing) or "The scan of this run was not found.")
    if segmenter.card.weights_sha256 != saved.info["model"]["weights_sha256"]:
        raise ReproduceError(
            f"The weights of the model {segmenter.card.name} are not those that the run was "
            "made with, so it cannot be done again."
        )
    run = AdaptationRun(
        segmenter,
        saved.scan,
        saved.settings,
        slices=saved.slices,
        region=saved.region,
        folder=folder,
        # Also where it is the source model's: a learned optimiser may have changed since.
        start=saved.past.state(0),
        corrections=saved.corrections,
        cut=saved.cut,
    )
    run.continued = saved.continued
    run.adopt_frames(saved.records)
    limit = len(saved.records)
    stream: Any = run.records()
    with contextlib.closing(run), contextlib.closing(stream):
        for record in stream:
            yield record
            if record.done >= limit:
                break
        stream.close()
        taken = saved.taken
        if taken is not None:
            # The person took the masks of an earlier state as the result.
            run.take(taken, {i: run.predict(i, taken).label_map for i in run.adapted_masks})
        yield _compared(saved, run)


def _compared(saved: ReopenedRun, run: AdaptationRun) -> Comparison:
    """Compare the masks after with those of the first time, where the run made them."""
    chosen = {index for one in saved.chosen for index in one["used_on"]}
    first, second = (
        {i: mask for i, mask in masks.items() if i not in chosen}
        for masks in (saved.adapted_masks, run.adapted_masks)
    )
    both = first.keys() & second.keys()
    different = sum(int(np.count_nonzero(first[i] != second[i])) for i in both)
    only_one = len(first.keys() ^ second.keys())
    return Comparison(run.folder, len(both), different, only_one, len(chosen))
