"""What the worker does with corrections; torch is imported in its thread only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from napari_grata.adaptation.corrections import Corrections
from napari_grata.adaptation.settings import Settings
from napari_grata.widgets import jobs


def correct(
    keep: Callable[[], None],
    run: Any,
    corrections: Corrections,
    settings: Settings,
    folder: Path | None,
    abandoned: threading.Event,
) -> Iterator[Any]:
    """Learn from corrections and draw all masks anew: the records of the new run.

    ``keep`` is called first: it keeps the masks as they are.
    """
    yield jobs.Stage("Learning from your corrections …")
    keep()
    with jobs.leave_room_for_the_interface():
        from napari_grata.adaptation.teaching import correct_run

        taught = correct_run(run, corrections, settings, folder)
        yield jobs.Started(taught)
        records: Any = taught.records()
        try:
            for record in records:
                yield record
                jobs.give_way()
        finally:
            records.close()
            if abandoned.is_set():
                taught.close()
