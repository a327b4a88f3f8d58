"""What every adaptation method has in common: its network, its state, and how it predicts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from napari_grata.adaptation.gradients import FlatAdam, FlatParameters
from napari_grata.adaptation.lean import make_lean
from napari_grata.adaptation.normalisation import adaptable_copy, norm_parameters
from napari_grata.adaptation.objectives import ACTIVATIONS, Objectives, probabilities
from napari_grata.adaptation.scribble import Supervision
from napari_grata.adaptation.settings import PRECISIONS
from napari_grata.segmenters.devices import has_bfloat16, lay_out


class Output(NamedTuple):
    """A prediction, on the network's device and without gradient.

    Attributes
    ----------
    logits : Tensor, shape (B, S, H, W)
        Of the images as they are.
    probabilities : Tensor, shape (B, S, H, W)
        Of the images, or the mean over six views if the method predicts so. Softmax outputs keep
        the background in channel 0.
    """

    logits: Tensor
    probabilities: Tensor


@dataclass(frozen=True)
class StepRecord:
    """What one step on one batch gave.

    Attributes
    ----------
    logits, probabilities : Tensor, shape (B, S, H, W)
        The prediction after the update; see `Output`.
    cosine : float or None
        Signed cosine similarity of auxiliary and pseudo gradient, −1 … 1.
    learning_rate : float or None
        The rate of this step.
    auxiliary_loss, pseudo_loss, auxiliary_norm, pseudo_norm : float or None
        Losses and Euclidean norms of the gradients.
    undone : bool
        A loss, a gradient or the output was not finite: θ, moments and generator are as before
        the step, and the prediction is that of the old θ.

    Figures are None where the method has none, and NaN where the step was undone.
    """

    logits: Tensor
    probabilities: Tensor
    cosine: float | None = None
    learning_rate: float | None = None
    auxiliary_loss: float | None = None
    pseudo_loss: float | None = None
    auxiliary_norm: float | None = None
    pseudo_norm: float | None = None
    undone: bool = False


@dataclass(frozen=True)
class Snapshot:
    """The whole state of a method; flat tensors on the CPU, always of the same size.

    Attributes
    ----------
    theta, first_moment, second_moment : Tensor, shape (n,)
        θ and Adam's moments, in the network's floating-point type.
    steps : int
        Optimiser steps taken.
    generator : Tensor of uint8
        State of the random generator.
    """

    theta: Tensor
    first_moment: Tensor
    second_moment: Tensor
    steps: int
    generator: Tensor


class Method:
    """Base of the adaptation methods: predicts, never learns.

    Parameters
    ----------
    network : nn.Module
        The source model, on the device to work on. It is never changed: the method works on a
        copy that shares all weights but those of the normalisation layers.
    seed : int
        Seed of every random draw.
    activation : {"sigmoid", "softmax"}
        Independent structures or exclusive classes.
    blend : float
        α in [0, 1]: statistics are α·current + (1 − α)·source.
    six_views : bool
        Probabilities are the mean over the six flips and rotations.
    batch_views : bool, optional
        Whether views of equal shape run as one batch. By default only on a GPU: on a CPU six
        small batches keep to the cache and are faster.
    precision : {"float32", "bfloat16"}
        What the network computes in. bfloat16 is faster where the device has it, and changes the
        numbers; θ, statistics, losses and predictions stay in the network's type. Where the
        device lacks it, the attribute of this name says ``"float32"``.
    """

    name = ""
    learns = False

    def __init__(
        self,
        network: nn.Module,
        *,
        seed: int = 0,
        activation: str = "sigmoid",
        blend: float = 1.0,
        six_views: bool = False,
        batch_views: bool | None = None,
        symmetric_entropy: bool = False,
        strong_view: Callable[[Tensor], Tensor] | None = None,
        precision: str = "float32",
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}; choose one of {', '.join(PRECISIONS)}.")
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation is {activation!r}; choose one of {', '.join(ACTIVATIONS)}."
            )
        if not 0 <= blend <= 1:
            raise ValueError(f"blend is {blend}; it lies between 0 (source) and 1 (current).")
        first = next(network.parameters(), None)
        self.device = torch.device("cpu") if first is None else first.device
        self.dtype = torch.float32 if first is None else first.dtype
        self.seed = int(seed)
        self.activation = activation
        self.blend = float(blend)
        self.six_views = six_views
        self.network = adaptable_copy(network, blend)
        self._layout = lay_out(self.network, self.device)
        low = precision == "bfloat16" and has_bfloat16(self.device)
        self.precision = "bfloat16" if low else "float32"
        lean = make_lean(self.network, torch.bfloat16 if low else None)
        self.generator = torch.Generator().manual_seed(self.seed)
        self.objectives = Objectives(
            self.network,
            generator=self.generator,
            activation=activation,
            symmetric_entropy=symmetric_entropy,
            strong_view=strong_view,
            batch_views=self.device.type != "cpu" if batch_views is None else batch_views,
            autocast=low and lean is None,
        )
        self._flat = FlatParameters(norm_parameters(self.network))
        if self.learns and not self._flat.names:
            raise ValueError(
                f"{type(self).__name__} adapts the scale and shift of normalisation layers, and "
                "this network has none. Choose another model."
            )
        self._adam = FlatAdam(self._flat.values)
        self._source = self._flat.values.clone()

    # State ----------------------------------------------------------------------------------

    @property
    def theta_names(self) -> tuple[str, ...]:
        """Names of the adapted parameters, in the order in which θ holds them."""
        return self._flat.names

    @property
    def theta_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the adapted parameters, in the same order."""
        return tuple(tuple(shape) for shape in self._flat.shapes)

    @property
    def steps(self) -> int:
        """Optimiser steps taken since the start or the last reset."""
        return self._adam.count

    def theta(self) -> Tensor:
        """Return a copy of θ, shape (n,), float32 on the CPU."""
        return self._flat.values.detach().to("cpu", torch.float32, copy=True)

    def load_theta(self, theta: Any) -> None:
        """Set θ (a tensor or array of n numbers), such as a mean over steps; moments stay.

        Raises
        ------
        ValueError
            If the length does not fit this network.
        """
        values = torch.as_tensor(theta).reshape(-1)
        self._check_length(values)
        self._flat.values.copy_(values)

    def snapshot(self) -> Snapshot:
        """Return the state: θ, moments, step count, random generator."""
        adam = self._adam
        theta, first, second = (
            one.detach().to("cpu", copy=True)
            for one in (self._flat.values, adam.first, adam.second)
        )
        return Snapshot(theta, first, second, adam.count, self.generator.get_state())

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to ``snapshot``; what follows gives the same numbers as it did then."""
        self._check_length(snapshot.theta)
        self._flat.values.copy_(snapshot.theta)
        self._adam.first.copy_(snapshot.first_moment)
        self._adam.second.copy_(snapshot.second_moment)
        self._adam.count = snapshot.steps
        self.generator.set_state(snapshot.generator)

    def reset(self) -> None:
        """Go back to the source model; the random generator starts from its seed again."""
        self._flat.values.copy_(self._source)
        self._adam.first.zero_()
        self._adam.second.zero_()
        self._adam.count = 0
        self.generator.manual_seed(self.seed)

    # Work -----------------------------------------------------------------------------------

    def step(self, images: Tensor, supervision: Supervision | None = None) -> StepRecord:
        """Adapt on one batch and predict it.

        Parameters
        ----------
        images : Tensor, shape (B, C, H, W)
            Floating point in [0, 1]; never written to. Moved to the network's device and type.
        supervision : Supervision, optional
            Corrected pixels of these images; used by methods with a ``scribble`` role.

        Returns
        -------
        StepRecord

        Raises
        ------
        ValueError
            If the images do not fit the network.
        """
        return StepRecord(*self.predict(images))

    @torch.no_grad()
    def predict(self, images: Tensor) -> Output:
        """Predict ``images``, as for `step`, with the present θ and without learning."""
        images = self._images(images)
        if self.six_views:
            return Output(*self.objectives.six_views(images))
        logits = self.objectives.logits(images)
        return Output(logits, probabilities(logits, self.activation))

    def _images(self, images: Tensor) -> Tensor:
        if not isinstance(images, Tensor) or not images.is_floating_point() or images.ndim != 4:
            got = f"{tuple(images.shape)} {images.dtype}" if hasattr(images, "shape") else images
            raise ValueError(f"Images are a floating-point tensor (B, C, H, W); got {got}.")
        images = images.detach().to(self.device, self.dtype)
        return images.contiguous(memory_format=self._layout)

    def _check_length(self, values: Tensor) -> None:
        expected = self._flat.values.numel()
        if values.numel() != expected:
            raise ValueError(
                f"θ of this model has {expected} numbers, but {values.numel()} were given; they "
                "belong to another model."
            )


class Learner(Method):
    """Base of the methods that learn: takes one guarded step and undoes it where it must."""

    learns = True

    def step(self, images: Tensor, supervision: Supervision | None = None) -> StepRecord:
        images = self._images(images)
        before = self._state()
        try:
            self.objectives.supervision = supervision and supervision.to(images)
            figures = self._learn(images)
            output = self.predict(images)
        except BaseException:
            # Out of memory or interrupted halfway: the step did not take place.
            self.restore(before)
            raise
        finally:
            self.objectives.supervision = None
        # One transfer from the device for all figures of the step.
        finite = torch.isfinite(output.logits).all() & torch.isfinite(self._flat.values).all()
        numbers = torch.stack(
            [*(one.reshape(()) for one in figures.values()), finite.to(self.dtype)]
        )
        *values, is_finite = numbers.tolist()
        undone = not is_finite or not all(map(math.isfinite, values))
        if undone:
            self.restore(before)
            output, values = self.predict(images), [math.nan] * len(figures)
        named = dict(zip(figures, values, strict=True))
        return replace(StepRecord(*output, undone=undone), **named)

    def _learn(self, images: Tensor) -> dict[str, Tensor]:
        """Change θ on ``images`` and return the figures of the step, by `StepRecord` name."""
        raise NotImplementedError

    def _state(self) -> Snapshot:
        """Return the state as `snapshot` does, but on the network's own device."""
        adam = self._adam
        theta, first, second = (one.clone() for one in (self._flat.values, adam.first, adam.second))
        return Snapshot(theta, first, second, adam.count, self.generator.get_state())
