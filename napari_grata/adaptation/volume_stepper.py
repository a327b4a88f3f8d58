"""The method at work on models that read volumes: patches teach, stitched windows predict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from napari_grata.segmenters import patches
from napari_grata.segmenters.devices import free_bytes, size_words
from napari_grata.segmenters.preprocessing import Prepared
from napari_grata.segmenters.segmenter import OutOfMemoryError, Prediction

from .methods.base import Method, Output, StepRecord
from .objectives import Supervision
from .settings import Settings
from .stepper import Stepper

if TYPE_CHECKING:
    from napari_grata.segmenters.sliding_window import SlidingWindow
    from napari_grata.segmenters.volumes import Volume, VolumeSegmenter

ANSWERS = 6
"""So many answers of a volume's size are held by methods that predict in a way of their own."""


class VolumeStepper(Stepper):
    """The method at work on a model that reads volumes: patches teach, stitched windows predict.

    A step on a slice takes a patch of the volume that holds a piece of this slice, of the size that
    the model was trained with, about a structure that the source model sees or, now and then,
    anywhere. The record of the step shows the slice as the patch says, and around it as the source
    model says. Masks are made once the model has learnt: from the whole volume in overlapping
    windows.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._volume: Volume | None = None
        self._kept: tuple[int, np.ndarray | None, torch.Tensor | None] | None = None
        super().__init__(*args, **kwargs)
        if self._settings.learns and not self._settings.predicts_afterwards:
            self._say(
                "This model reads whole volumes: masks are made once it has learnt, not as the "
                "slices go by."
            )

    def _make(self) -> None:
        self._sides = self._fitting() if self._settings.learns else self._whole_patch
        super()._make()
        cast("SlidingWindow", self._method.network).window = self._sides

    @property
    def _viewing(self) -> Settings:
        as_it_is = self._settings.six_views or self._settings.method == "source"
        if as_it_is or not self._reader.plan.mirror:
            return self._settings
        self._say(
            "As trained this model takes the mean over mirrored images, and so it does adapted, "
            "whatever six_views says."
        )
        return self._settings.but(six_views=True)

    @property
    def _whole_patch(self) -> tuple[int, ...]:
        sides = self.segmenter.card.patch
        assert sides is not None
        return sides

    def _fitting(self) -> tuple[int, ...]:
        """Return the model's own patch, or a smaller one that there is memory to learn from."""
        sides, free = self._whole_patch, free_bytes(self.segmenter.device)
        while free is not None and (needed := patches.learning_bytes(self._reader, sides)) > free:
            less = patches.smaller(self._reader.card, sides)
            if less is None:
                raise OutOfMemoryError(
                    f"A step on a patch of {_words(sides)} voxels needs about "
                    f"{size_words(needed)}, but {size_words(free)} are free. Close other "
                    "programs, or choose another device."
                )
            sides = less
        if sides != self._whole_patch:
            self._say(
                f"The model learns from patches of {_words(sides)} voxels, not of "
                f"{_words(self._whole_patch)} as in training: more does not fit into memory."
            )
        return sides

    @property
    def _reader(self) -> VolumeSegmenter:
        return cast("VolumeSegmenter", self.segmenter)

    def rest(self) -> None:
        with self._looking:
            answer = self._kept and self._kept[2]
            if answer is not None and answer.dtype is torch.float16:
                self._kept = None

    def source(self, slices: list[int]) -> Iterator[Prediction]:
        self._hold(slices[0])
        yield from super().source(slices)

    def step(
        self, slice_index: int, batch: Any = ()
    ) -> tuple[StepRecord | None, Prediction | None]:
        if self._settings.learns:
            return super().step(slice_index, batch)
        if self._settings.method == "source" and not self._settings.six_views:
            return None, None
        found = self.predict(slice_index, None)
        nothing = torch.zeros(0)
        return StepRecord(nothing, nothing, undone=found is None), found

    def predict(self, slice_index: int, theta: np.ndarray | None) -> Prediction | None:
        logits = self._whole(slice_index, theta)
        if logits is None:
            return None
        maps = self._reader.slice_of(logits, self._scan, slice_index, self._region)
        return Prediction(slice_index, self.segmenter.label_map(maps), maps)

    def _whole(self, slice_index: int, theta: np.ndarray | None) -> torch.Tensor | None:
        """Predict a whole volume with some θ: (S, a, b, c); None if no numbers come out.

        The latest is kept, for slices ask in turn.
        """
        case = self._scan.case_of(slice_index)
        with self._looking:
            kept = self._kept
            if kept is not None and kept[0] == case and _same(kept[1], theta):
                return kept[2]
            self._kept = None
            image = self._hold(slice_index).image[None]
            shape, others = image.shape[2:], ANSWERS if self._viewer.holds_whole else 0
            self._reader.check_memory(shape, others)
            found = self._reader.room_for(shape)
            finite = self._look(lambda viewer: viewer.predict_volume(image, found), theta)
            self._reader.as_logits_(found)
            self._kept = case, theta, found if finite else None
            return self._kept[2]

    def _hold(self, slice_index: int) -> Volume:
        """Return a slice's volume, which stays read until another one is asked for."""
        self._volume = self._reader.volume(self._scan, slice_index, self._region)
        return self._volume

    def _prepare(self, slice_index: int) -> Prepared:
        self._hold(slice_index)
        chance = np.random.default_rng((self._settings.seed, slice_index, self._method.steps))
        about = None
        if (drawn := self._drawn(slice_index)) is not None:
            # On the slice, somewhere about what was corrected.
            lie = self._reader.lie(self._scan, slice_index, self._region)
            about = np.insert(drawn.weights[0].nonzero().numpy(), lie.across, lie.plane or 0, 1)
        where = self._reader, self._scan, slice_index, self._region
        patch = patches.cut_patch(*where, self._sides, chance, about)
        return patch.to(self.segmenter.device)

    def _drawn(self, slice_index: int) -> Supervision | None:
        """Return what a slice's corrections teach, on the plane of the volume's grid."""
        if not self._corrections or slice_index not in self._corrections.labels:
            return None
        lie = self._reader.lie(self._scan, slice_index, self._region)
        flat = Prepared(torch.zeros(()), lie.frame, slice_index)
        card, soft = self.segmenter.card, self._settings.soft_labels
        return None if lie.plane is None else Supervision.of(self._corrections, flat, card, soft)

    def _supervision(self, prepared: Prepared) -> Supervision | None:
        patch = cast("patches.Patch", prepared)
        drawn = self._drawn(patch.slice_index)
        if drawn is None or patch.lie is None or patch.lie.plane is None:
            return None
        across, sides = patch.lie.across, patch.image.shape[2:]
        plane = patch.lie.plane - patch.place[across].start
        inside: Any = tuple(cut for axis, cut in enumerate(patch.place) if axis != across)
        targets = torch.zeros(1, self.segmenter.card.outputs, *sides)
        weights = torch.zeros(1, *sides)
        targets.select(across + 2, plane).copy_(drawn.targets[(..., *inside)])
        weights.select(across + 1, plane).copy_(drawn.weights[(..., *inside)])
        found = Supervision(targets, weights)
        said = self._whole(patch.slice_index, self.start) if self._settings.hold else None
        if said is None:
            return found
        held = self.segmenter.probabilities(said[(slice(None), *patch.place)][None])
        # Beside one slice that was looked at lie many that were not: together they count as one.
        return found.holding(held, self._settings.hold / sides[across])

    def _may_average(self, slice_index: int) -> bool:
        return True  # over mirrored windows, as it was trained to be asked

    def _image(self, slice_index: int) -> torch.Tensor:
        return self._prepare(slice_index).image

    def _prediction(self, output: Output, prepared: Prepared, method: Method) -> Prediction | None:
        if not output.is_finite:
            return None
        patch = cast("patches.Patch", prepared)
        said, where = output.probabilities[0], (self._scan, self._region)
        maps = patches.with_patch(self._reader, said, patch, *where)
        return Prediction(patch.slice_index, self.segmenter.label_map(maps), maps)


def _words(sides: Sequence[int]) -> str:
    return " × ".join(map(str, sides))


def _same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    if one is None or other is None:
        return one is other
    return one is other or np.array_equal(one, other)
