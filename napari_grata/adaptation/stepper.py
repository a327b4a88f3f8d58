"""The method at work on a scan's slices: devices, memory and a second model for looking back."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch.nn import functional as fn

from napari_grata.segmenters.card import structure_mask
from napari_grata.segmenters.devices import is_out_of_memory
from napari_grata.segmenters.framing import Framing, find_frame
from napari_grata.segmenters.preprocessing import Prepared
from napari_grata.segmenters.segmenter import Prediction, memory_in_words

from .corrections import Corrections
from .flags import FRAME_CODE, SUSPICIOUS_ENTROPY, mean_entropy
from .methods.base import Method, Output, Snapshot, StepRecord, method_for
from .normalisation import is_blank
from .objectives import Supervision
from .plan import Region, RunError
from .records import Record
from .run_store import RunStore
from .settings import Settings

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Segmenter

AHEAD = 4
"""So many slices at a time are predicted with the source model, ahead of the stream."""
IMAGE_BYTES = 2**30
"""So much of a stack is kept prepared while a model learns from all of it."""
SAMPLED = 16
"""On so many slices of a volume, at most, it is asked whether the views agree."""
LEAST_KEPT = 0.9
"""The mean over the views keeps so much of every structure, or it does not draw the volume; see
``docs/results-details.md``."""
_Result = TypeVar("_Result")
TO_ADAPT = "to adapt on this slice"
_log = logging.getLogger(__name__)


class Stepper:
    """Two models over one source: one that learns along the stream, one that only predicts.

    The second takes any θ of the history, so that a slice can be predicted as it was at any step,
    from another thread too, while the first goes on undisturbed.

    Parameters
    ----------
    segmenter : Segmenter
    scan : Scan
    settings : Settings
    region : (row0, col0, row1, col1) or None
    notices : list of str
        Where to say what the person should know.
    corrections : Corrections, optional
        What a reviewer corrected; teaches if the settings say so.

    Attributes
    ----------
    start : ndarray or None
        θ before the run, of what the reviewer saw; None: the source model's.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        scan: Scan,
        settings: Settings,
        region: Region | None,
        notices: list[str],
        corrections: Corrections | None = None,
    ) -> None:
        self.segmenter = segmenter
        self._scan = scan
        self._settings = settings
        self._region = region
        self._framings: dict[int, Framing] = {}  # by case
        self._framing = threading.Lock()
        self._notices = notices
        self._corrections = corrections if settings.scribble != "none" else None
        self.start: np.ndarray | None = None
        self._said: dict[int, torch.Tensor] = {}
        self._looking = threading.RLock()
        self._prepared: Prepared | None = None
        self._images: dict[int, torch.Tensor] = {}
        self._averages: dict[int, bool] = {}  # by case
        self._make()

    def _make(self) -> None:
        learner = self._settings
        afterwards = self._corrections and learner.predicts_afterwards
        if learner.learns_from_stack or self.segmenter.card.patch is not None or afterwards:
            # Many steps: what the slices look like in between is worth one view, not six.
            learner = learner.but(six_views=False)
        self._method = method_for(learner, self.segmenter)
        self._viewer = method_for(self._viewing, self.segmenter)
        if self._method.precision != self._settings.precision:
            self._say(
                f"{self.segmenter.device} does not compute in {self._settings.precision}; this "
                "run computes in float32, and its numbers differ a little."
            )
        if self._settings.uses("parameters") and self._settings.parameters != "usual":
            self._say("{:,} of the {:,} parameters adapt.".format(*self.adapted))

    @property
    def _viewing(self) -> Settings:
        """The settings of the model that only predicts."""
        return self._settings

    @property
    def adapted(self) -> tuple[int, int]:
        """How many numbers of the model a method that moves parameters moves, and of how many."""
        network = self._method.network
        moved = self._method.adapts in ("theta", "weights")
        return (
            sum(one.numel() for one in network.parameters() if one.requires_grad and moved),
            sum(one.numel() for one in network.parameters()),
        )

    # -- what is read of a slice --------------------------------------------------------------

    def frame_of(self, slice_index: int) -> Region | None:
        """Return the part of a slice that the adapted model reads; None: all of it."""
        return self.framing_of(slice_index).region

    def framing_of(self, slice_index: int) -> Framing:
        """Return what the user drew; else, if the settings say so, what is found in its case.

        It is looked for when the first slice of a case is asked for, and stays from then on.
        """
        if not self._settings.reframe or self._region is not None:
            return Framing(self._region)
        case = self._scan.case_of(slice_index)
        with self._framing:
            if case not in self._framings:
                self._framings[case] = find_frame(self.segmenter, self._scan, case)
            return self._framings[case]

    def adopt_frames(self, records: Iterable[Record]) -> None:
        """Take the frames of cases from records: they are not looked for again."""
        for record in records:
            words = "".join(flag.text for flag in record.flags if flag.code == FRAME_CODE)
            self._framings[record.case] = Framing(record.frame, not words, words)

    # -- state -----------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """State of the learning model."""
        return self._method.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Put the learning model back."""
        self._method.restore(snapshot)

    def start_over(self, corrections: Corrections) -> None:
        """Forget every step, to learn from other corrections; what was prepared is kept."""
        self._corrections = corrections if self._settings.scribble != "none" else None
        self._method.reset()

    def rest(self) -> None:
        """Let go of what takes gigabytes and can be had again: the run comes to rest."""

    # -- work ------------------------------------------------------------------------------

    def source(self, slices: list[int]) -> Iterator[Prediction]:
        """Predict slices with the source model."""
        seen = len(self.segmenter.notices)
        yield from self.segmenter.predict(self._scan, slices, region=self._region)
        for notice in self.segmenter.notices[seen:]:
            self._say(notice)

    def step(
        self, slice_index: int, batch: Sequence[int] = ()
    ) -> tuple[StepRecord | None, Prediction | None]:
        """Take one step on a slice; one with nothing on it teaches nothing.

        Parameters
        ----------
        slice_index : int
        batch : sequence of int, optional
            The slices that teach the step, this one first; by default it alone.

        Returns
        -------
        (StepRecord or None, Prediction or None)
            No prediction where the source mask is the answer: the method is the source model
            itself, the slice is one single value, or what came out are no numbers, even with the
            step undone. No record of a step where there is nothing to learn from.
        """
        reads_all = self.frame_of(slice_index) == self._region
        if self._settings.method == "source" and not self._settings.six_views and reads_all:
            return None, None
        if self._settings.six_views:
            # What may not draw may not teach.
            views = self.segmenter.card.views if self._may_average(slice_index) else ("identity",)
            self._method.objectives.views = views
        prepared = self._prepare(slice_index)
        supervision = self._supervision(prepared)
        untaught = supervision is None and self._only_corrections_teach(slice_index)
        blank = is_blank(prepared.image)
        if batch and not untaught and (supervision is None or not blank):
            return self._step_on_batch(prepared, batch, supervision)
        if blank:
            # Such as the air above a skull-stripped brain, a third of a volume. One value has no
            # statistics to normalise with (the masks would be noise), and its strong view would
            # be noise stretched to the full range, which should not be learnt.
            return None, None
        if untaught:
            # Drawn outside the region: the model never sees it, and the rest is not to teach.
            output = self._with_room(lambda: self._method.predict(prepared.image))
            return None, self._prediction(output, prepared, self._method)
        record = self._with_room(lambda: self._method.step(prepared.image, supervision))
        output = Output(record.logits, record.probabilities)
        return record, self._prediction(output, prepared, self._method)

    def _step_on_batch(
        self, first: Prepared, batch: Sequence[int], supervision: Supervision | None
    ) -> tuple[StepRecord | None, Prediction | None]:
        """Take one step on several slices, and return the mask of the first as it is then.

        Slices of another size than the first are brought to it: for learning that does no harm.
        Where corrections of the first teach, the others are held to what was said of them.
        """
        others = {index: self._image(index) for index in batch if index != first.slice_index}
        images = [one for one in (first.image, *others.values()) if not is_blank(one)]
        if supervision is not None:
            images = [first.image]
            for index, image in others.items():
                if image.shape == first.image.shape and not is_blank(image):
                    images.append(image)
                    supervision = supervision.beside(self._said_of(index, image))
        record = None
        if images:
            size = images[0].shape[2:]
            mode = "bilinear" if len(size) == 2 else "trilinear"
            alike = [
                one if one.shape[2:] == size else fn.interpolate(one, size, mode=mode)
                for one in images
            ]
            record = self._with_room(
                lambda: self._method.step_on_batch(torch.cat(alike), supervision)
            )
        if record is None or is_blank(first.image):
            return record, None
        output = Output(record.logits[:1], record.probabilities[:1])
        return record, self._prediction(output, first, self._method)

    def _image(self, slice_index: int) -> torch.Tensor:
        """Return a slice as the network reads it; passes over a stack prepare each slice once."""
        if slice_index not in self._images:
            image = self.segmenter.prepare(
                self._scan, slice_index, self.frame_of(slice_index)
            ).image
            kept = sum(one.numel() for one in self._images.values()) * image.element_size()
            if kept > IMAGE_BYTES:
                self._images.clear()
            self._images[slice_index] = image
        return self._images[slice_index]

    def predict(self, slice_index: int, theta: np.ndarray | None) -> Prediction | None:
        """Predict a slice with some θ (None: the source model's); None if no numbers come out."""
        prepared = self.segmenter.prepare(self._scan, slice_index, self.frame_of(slice_index))
        if is_blank(prepared.image):
            return next(iter(self.source([slice_index])))
        output = self._look(lambda viewer: viewer.predict(prepared.image), theta)
        return self._prediction(output, prepared, self._viewer)

    def _look(self, work: Callable[[Method], _Result], theta: np.ndarray | None) -> _Result:
        """Let the model that only predicts do some work, with some θ (None: the source model's)."""

        def look() -> _Result:
            if theta is None:
                self._viewer.reset()
            else:
                self._viewer.load_theta(torch.from_numpy(theta))
            return work(self._viewer)

        with self._looking:
            return self._with_room(look, viewing=True)

    def _supervision(self, prepared: Prepared) -> Supervision | None:
        """Return what the reviewer's corrections of a slice teach, if there are any."""
        if not self._corrections:
            return None
        settings, index = self._settings, prepared.slice_index
        found = Supervision.of(
            self._corrections, prepared, self.segmenter.card, settings.soft_labels
        )
        if found is None or settings.hold == 0:
            return found
        return found.holding(self._said_of(index, prepared.image), settings.hold)

    def _said_of(self, slice_index: int, image: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of a slice before anything was taught."""
        if slice_index not in self._said:
            said = self._look(lambda viewer: viewer.predict(image), self.start).probabilities
            if said.numel() * said.element_size() * (len(self._said) + 1) > IMAGE_BYTES:
                self._said.clear()
            self._said[slice_index] = said
        return self._said[slice_index]

    def _only_corrections_teach(self, slice_index: int) -> bool:
        """Whether a slice takes steps for its corrections alone."""
        drawn = () if self._corrections is None else self._corrections.labels
        return slice_index in drawn and not self._settings.uncorrected_learn

    def _prepare(self, slice_index: int) -> Prepared:
        """Several steps on one slice prepare it once."""
        if self._prepared is None or self._prepared.slice_index != slice_index:
            frame = self.frame_of(slice_index)
            self._prepared = self.segmenter.prepare(self._scan, slice_index, frame)
        return self._prepared

    def _prediction(self, output: Output, prepared: Prepared, method: Method) -> Prediction | None:
        if not output.is_finite:
            return None
        probabilities = output.probabilities
        if method.six_views and not self._may_average(prepared.slice_index):
            probabilities = method.objectives.probabilities(output.logits)
        restored = self.segmenter.restore(probabilities[0], prepared)
        return Prediction(prepared.slice_index, self.segmenter.label_map(restored), restored)

    def _may_average(self, slice_index: int) -> bool:
        """Whether the mean over the views draws a slice's volume, not the scan as it is alone.

        On a new scanner the model may see a structure in one view and hardly in its mirror image;
        their mean then takes away what was there. It is asked of the source model, on slices all
        through the volume, so that the answer is the same at every step. A photograph is too
        little to tell by.
        """
        if not self._scan.is_stack:
            return True
        case = self._scan.case_of(slice_index)
        with self._looking:
            if case not in self._averages:
                lost = self._lost_in_mean(case)
                self._averages[case] = not lost
                if lost:
                    self._say(
                        f"Turned or mirrored, this scan shows the model less of "
                        f"{' and '.join(lost)}: it is predicted as it is, not as the mean over its "
                        "views."
                    )
            return self._averages[case]

    def _lost_in_mean(self, case: int) -> list[str]:
        """Return the structures of which the mean over the views takes more than is allowed."""
        own = [i for i in range(self._scan.n_slices) if self._scan.case_of(i) == case]
        places = np.linspace(0, len(own) - 1, min(SAMPLED, len(own)) + 2)[1:-1]
        card, found = self.segmenter.card, np.zeros((2, len(self.segmenter.card.structures)))
        for index in sorted({own[round(place)] for place in places}):
            image = self.segmenter.prepare(self._scan, index, self.frame_of(index)).image
            if is_blank(image):
                continue
            output = self._look(partial(Method.predict, images=image), None)
            alone = self._viewer.objectives.probabilities(output.logits)
            for row, said in enumerate((alone, output.probabilities)):
                labels = self.segmenter.label_map(said[0].float())
                found[row] += [structure_mask(card, labels, s.name).sum() for s in card.structures]
        kept = found[1] < LEAST_KEPT * found[0]
        return [one.name for one, less in zip(card.structures, kept, strict=True) if less]

    # -- memory ----------------------------------------------------------------------------

    def _with_room(self, work: Callable[[], _Result], *, viewing: bool = False) -> _Result:
        """Do some work; when memory runs out, make room and do it again.

        First the views run one by one, then the CPU takes over from the model that learns, or
        from the one that only looks. A step that failed has put its state back, so that it can be
        taken again.
        """
        while True:
            methods = self._method, self._viewer
            moves = False
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if any(method.objectives.batch_views for method in methods):
                    for method in methods:
                        method.objectives.batch_views = False
                elif methods[viewing].device.type == "cpu":
                    with memory_in_words(TO_ADAPT):
                        raise
                else:
                    moves = True
            # Outside the handler: the error's traceback holds on to what did not fit.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if moves:
                (self._move_viewer if viewing else self._move)()

    def _move(self) -> None:
        """Let the CPU go on, from the state that the learning model is in."""
        self._say(
            f"The graphics card ({self.segmenter.device}) ran out of memory; the CPU goes on from "
            "here, more slowly. Nothing is lost."
        )
        state = self._method.snapshot()
        self.segmenter = self.segmenter.to("cpu")
        self._make()
        self._method.restore(state)

    def _move_viewer(self) -> None:
        """Let the CPU look back, while the learning model stays where it is."""
        self._viewer = method_for(self._viewing, self.segmenter.to("cpu"))

    def _say(self, text: str) -> None:
        if text not in self._notices:
            self._notices.append(text)
            _log.warning("%s", text)


class SourceMasks:
    """The source model's masks of a run's slices, and how sure it was of them.

    Masks that are there already, ``given`` by slice, are taken, others are predicted.
    """

    def __init__(
        self, stepper: Stepper, store: RunStore, scan: Scan, given: Mapping[int, np.ndarray]
    ) -> None:
        self._stepper, self._store, self._scan, self._given = stepper, store, scan, given
        self._entropy: dict[int, float] = {}

    def of(self, slice_index: int, coming: Iterable[int]) -> np.ndarray:
        """Return a slice's source mask; ``coming`` are the slices of the stream from here on."""
        known = self._store.source_masks
        if slice_index in known:
            return known[slice_index]
        if slice_index in self._given:
            mask, shape = np.asarray(self._given[slice_index]), self._scan.slice_shape(slice_index)
            if mask.shape != tuple(shape):
                raise RunError(
                    f"The source mask of slice {slice_index + 1} is {mask.shape}, the slice "
                    f"{tuple(shape)}. Segment the scan again."
                )
            self._store.keep_source(slice_index, mask)
            return known[slice_index]
        lacking = (i for i in coming if i not in known and i not in self._given)
        ahead = dict.fromkeys(itertools.chain([slice_index], lacking))
        for prediction in self._stepper.source(list(itertools.islice(ahead, AHEAD))):
            self._store.keep_source(prediction.slice_index, prediction.label_map)
            self._remember(prediction)
        return known[slice_index]

    def entropy(self, slice_index: int, adapted: float) -> float | None:
        """Return the mean entropy of the source model on a slice.

        Where the mask was given, the source model is asked only if the ``adapted`` entropy is
        low enough to be suspicious; else the answer is None.
        """
        if slice_index not in self._entropy and adapted < SUSPICIOUS_ENTROPY:
            for prediction in self._stepper.source([slice_index]):
                self._remember(prediction)
        return self._entropy.get(slice_index)

    def _remember(self, prediction: Prediction) -> None:
        self._entropy[prediction.slice_index] = mean_entropy(
            prediction.probabilities, self._stepper.segmenter.card.activation
        )
