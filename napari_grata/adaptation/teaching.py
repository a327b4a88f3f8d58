"""Corrections that teach: from a run and what a reviewer drew on its masks to the next run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .corrections import Corrections, CorrectionsError
from .methods.base import Snapshot
from .methods.register import METHODS
from .reopening import ReopenedRun
from .run import AdaptationRun
from .settings import Settings, teaching_settings

if TYPE_CHECKING:
    from napari_grata.segmenters import Segmenter


def correct_run(
    run: AdaptationRun | ReopenedRun,
    corrections: Corrections,
    settings: Settings | None = None,
    folder: str | Path | None = None,
    *,
    segmenter: Segmenter | None = None,
) -> AdaptationRun:
    """Make a run that goes on from an earlier one and learns from a reviewer's corrections.

    The earlier run is not changed: it is the way back. The new one starts with the θ that drew the
    masks which the reviewer corrected (after a method that learns something else, with the source
    model's), with a fresh optimiser; its history holds every step from there. Corrected pixels stay
    as they were drawn; corrections that the earlier run had been given stay and teach as well,
    where they were not drawn over.

    Parameters
    ----------
    run : AdaptationRun or ReopenedRun
        A reopened run is made live (see `ReopenedRun.run`).
    corrections : Corrections
        Of the run's scan.
    settings : Settings, optional
        By default `teaching_settings` of the run's own.
    folder : path, optional
        Run folder of the new run.
    segmenter : Segmenter, optional
        Of a reopened run; by default it is loaded by its name.

    Returns
    -------
    AdaptationRun
        To be iterated with `AdaptationRun.records`.

    Raises
    ------
    CorrectionsError
        If nothing was corrected, or the corrections are of another scan or model.
    RunFolderError
        If a reopened run cannot be made live.
    """
    live = run.run(segmenter) if isinstance(run, ReopenedRun) else run
    drawn = live.corrections.with_(corrections)
    if not set(drawn.slices) & set(live.slices):
        raise CorrectionsError(
            "Nothing was corrected on the slices of this run. Paint on the mask after adaptation "
            "first."
        )
    chosen = settings if settings is not None else teaching_settings(live.settings)
    first = next(index for index in drawn.slices if index in set(live.slices))
    # Statistics or a prompt are no scale and shift, even where they are as many numbers.
    same = (METHODS[chosen.method].learns, *chosen.adapted) == (
        METHODS[live.settings.method].learns,
        *live.settings.adapted,
    )
    return AdaptationRun(
        live.segmenter,
        live.scan,
        chosen,
        slices=live.slices,
        region=live.region,
        folder=folder,
        source_masks=live.source_masks,
        start=taught_state(live, first) if same or not live.settings.learns else None,
        corrections=drawn,
    )


def taught_state(run: AdaptationRun, slice_index: int | None = None) -> Snapshot:
    """Return the θ that a run draws its masks with, and a fresh optimiser.

    What the next scan's run can start from (``start=``), so that corrections on one case serve the
    rest of a list.

    Parameters
    ----------
    slice_index : int, optional
        Whose θ, where a run has several (episodes); by default the last slice's.
    """
    origin = run.past.state(0)
    theta = torch.from_numpy(run.theta_of(run.slices[-1] if slice_index is None else slice_index))
    if METHODS[run.settings.method].learns == "theta":
        # A method may note more behind the parameters.
        theta = theta[: run.adapted[0]]
    theta = theta.to(origin.theta)
    return Snapshot(
        theta, torch.zeros_like(theta), torch.zeros_like(theta), 0, origin.generator.clone()
    )
