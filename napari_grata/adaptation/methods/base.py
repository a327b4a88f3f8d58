"""What every adaptation method has in common: its network, its state, and how it predicts."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from napari_grata.adaptation.gradients import FlatAdam, FlatParameters
from napari_grata.adaptation.normalisation import (
    BlendedNorm,
    adaptable_copy,
    norm_parameters,
    norm_statistics,
)
from napari_grata.adaptation.objectives import Objectives, Supervision
from napari_grata.adaptation.resunet_cpu import use_cpu_pass
from napari_grata.adaptation.settings import Settings, checked
from napari_grata.segmenters.card import VIEWS
from napari_grata.segmenters.devices import has_bfloat16, is_out_of_memory, lay_out

from .register import METHODS, Learns, MethodInfo

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from napari_grata.segmenters import Segmenter


LAYERS = "layer_cosines"
_BY_ALL = ("seed", "six_views", "precision")


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

    @property
    def is_finite(self) -> bool:
        """Whether they are numbers, all of them; no mask may be made of anything else."""
        return bool(self.logits.isfinite().all() & self.probabilities.isfinite().all())


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
    layer_cosines : dict of str to float
        The same similarity within each adapted layer, in order; NaN without a gradient.
    undone : bool
        A loss, a gradient or the output was not finite: θ, moments and generator are as before
        the step, and the prediction, which may be no numbers either, is that of the old θ.

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
    layer_cosines: dict[str, float] = field(default_factory=dict)


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
    student : Tensor, shape (m,)
        What else a method has to know: what learns, where that is another θ than the one that
        predicts (m = n), or what it remembers, which may grow. Empty for most.
    """

    theta: Tensor
    first_moment: Tensor
    second_moment: Tensor
    steps: int
    generator: Tensor
    student: Tensor = field(default_factory=lambda: torch.zeros(0))


class Common(TypedDict, total=False):
    """Arguments that every method takes; see `Method`."""

    seed: int
    activation: str
    blend: float
    six_views: bool
    views: Sequence[str]
    batch_views: bool | None
    symmetric_entropy: bool
    stag: float
    strong_view: Callable[[Tensor], Tensor] | None
    precision: str
    parameters: str
    names: str


class Method:
    """Base of the adaptation methods: predicts, never learns.

    Parameters
    ----------
    network : nn.Module
        The source model, on the device to work on. It is never changed: the method works on a
        copy that shares all weights but those that adapt.
    seed : int
        Seed of every random draw; one seed gives the same numbers on the CPU.
    activation : {"sigmoid", "softmax"}
        Independent structures or exclusive classes.
    blend : float
        α in [0, 1]: statistics are α·current + (1 − α)·source. 1 is published.
    six_views : bool
        Probabilities are the mean over the views.
    views : sequence of str
        Flips and rotations that the model is used to, the identity among them.
    batch_views : bool, optional
        Whether views of equal shape run as one batch. By default only on a GPU: on a CPU six
        small batches keep to the cache and are faster.
    symmetric_entropy : bool
        Bernoulli entropy in place of the published one-sided form (sigmoid only).
    stag : float
        λ of the alignment of entropy gradients, which goes with every entropy; 0: none.
    strong_view : callable, optional
        Images to images; None for the seeded augmentation.
    precision : {"float32", "bfloat16"}
        What the network computes in. bfloat16 is faster where the device has it, and changes the
        numbers; θ, statistics, losses and predictions stay in the network's type. Where the
        device lacks it, the attribute of this name says ``"float32"``.
    parameters, names : str
        What θ is, of methods that move parameters; see `normalisation.chosen_parameters`.
        ``"usual"``: all of them where all weights learn, else those of the normalisation layers.
    """

    name: ClassVar[str] = ""
    learns: ClassVar[bool] = False
    adapts: ClassVar[Learns] = "nothing"

    def __init__(
        self,
        network: nn.Module,
        *,
        seed: int = 0,
        activation: str = "sigmoid",
        blend: float = 1.0,
        six_views: bool = False,
        views: Sequence[str] = VIEWS,
        batch_views: bool | None = None,
        symmetric_entropy: bool = False,
        stag: float = 0.0,
        strong_view: Callable[[Tensor], Tensor] | None = None,
        precision: str = "float32",
        parameters: str = "usual",
        names: str = "",
    ) -> None:
        first = next(network.parameters(), None)
        self.device = torch.device("cpu") if first is None else first.device
        self.dtype = torch.float32 if first is None else first.dtype
        self.seed: int = checked("seed", seed)
        self.activation = activation
        self.blend = float(checked("blend", blend))
        self.six_views = six_views
        if checked("parameters", parameters) == "usual":
            parameters = "all" if self.adapts == "weights" else "norms"
        self.network = adaptable_copy(network, self.blend, parameters, names)
        self._layout = lay_out(self.network, self.device)
        low = checked("precision", precision) == "bfloat16" and has_bfloat16(self.device)
        self.precision = "bfloat16" if low else "float32"
        by_hand = None
        self._by_norms = parameters == "norms"
        if self._by_norms:
            # Arranged by hand, with gradients of scale and shift alone.
            by_hand = use_cpu_pass(self.network, torch.bfloat16 if low else None)
        self.generator = torch.Generator().manual_seed(self.seed)
        self.objectives = Objectives(
            self.network,
            generator=self.generator,
            activation=activation,
            symmetric_entropy=symmetric_entropy,
            stag=float(checked("stag", stag)),
            strong_view=strong_view,
            views=views,
            batch_views=self.device.type != "cpu" if batch_views is None else batch_views,
            autocast=low and by_hand is None,
        )
        self._flat = FlatParameters(self._adapted())
        if self.learns and not self._flat.names:
            what = "statistics of batch" if self.adapts == "statistics" else "scale and shift of"
            raise ValueError(
                f"The method {self.name} adapts the {what} normalisation layers, and this network "
                "has none. Choose another model or another method."
            )
        self._adam = FlatAdam(self._flat.values)
        self._source = self._flat.values.clone()

    def _adapted(self) -> Sequence[tuple[str, Tensor]]:
        """Return names and tensors of what θ is."""
        if self.adapts == "statistics":
            return norm_statistics(self.network)
        if self._by_norms:
            return norm_parameters(self.network)
        return [(n, one) for n, one in self.network.named_parameters() if one.requires_grad]

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
        return self._state(torch.device("cpu"))

    def _state(self, device: torch.device) -> Snapshot:
        adam = self._adam
        theta, first, second = (
            one.detach().to(device, copy=True)
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
        self._adam.count = self._adam.since = 0
        self.generator.manual_seed(self.seed)

    # Work -----------------------------------------------------------------------------------

    def step(self, images: Tensor, supervision: Supervision | None = None) -> StepRecord:
        """Adapt on one batch and predict it.

        Parameters
        ----------
        images : Tensor, shape (B, C, H, W), (B, C, D, H, W) for a network that reads volumes
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
        output = self.predict(images)
        return StepRecord(*output, undone=not output.is_finite)

    def step_on_batch(self, images: Tensor, supervision: Supervision | None = None) -> StepRecord:
        """Adapt on several slices of a stack at once, and predict the first or all of them."""
        return self.step(images, supervision)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Output:
        """Predict ``images``, as for `step`, with the present θ and without learning."""
        images = self._images(images)
        if self.six_views:
            return Output(*self.objectives.mean_of_views(images))
        logits = self.objectives.logits(images)
        return Output(logits, self.objectives.probabilities(logits))

    @torch.no_grad()
    def predict_volume(self, images: Tensor, found: Tensor) -> bool:
        """Predict a volume (1, C, a, b, c) as `predict` does, but slab by slab.

        Parameters
        ----------
        images : Tensor
        found : Tensor, shape (S, a, b, c)
            Where the probabilities go, on any device and of any precision.

        Returns
        -------
        bool
            Whether they are numbers.
        """
        if self.holds_whole:
            output = self.predict(images)
            found.copy_(output.probabilities[0])
            return output.is_finite
        names = self.objectives.views if self.six_views else ("identity",)
        finite = self.objectives.add_views(self._images(images), names, found.zero_())
        found /= len(names)
        return finite

    @property
    def holds_whole(self) -> bool:
        """Whether a volume is predicted all at once, for the method predicts in its own way."""
        return type(self).predict is not Method.predict

    def _norms(self) -> list[BlendedNorm]:
        """Return the layers with source statistics; ValueError if there are none."""
        found = [
            layer
            for layer in self.network.modules()
            if isinstance(layer, BlendedNorm) and layer.running_mean is not None
        ]
        if not found:
            raise ValueError(
                f"The method {self.name} needs the statistics of batch normalisation layers, and "
                "this network has none. Choose another model or another method."
            )
        return found

    def _watched(
        self, layers: Sequence[BlendedNorm], images: Tensor, see: Callable[[Any, Tensor], None]
    ) -> Tensor:
        """Return the logits; ``see`` is told of each layer what comes to it."""
        hooks = [
            layer.register_forward_pre_hook(lambda layer, inputs: see(layer, inputs[0]))
            for layer in layers
        ]
        by_hand = getattr(self.network, "runner", None)  # it would pass the layers by
        try:
            if by_hand is not None:
                setattr(self.network, "runner", None)  # noqa: B010 (a module's own, no tensor)
            return self.objectives.logits(images)
        finally:
            if by_hand is not None:
                setattr(self.network, "runner", by_hand)  # noqa: B010
            for hook in hooks:
                hook.remove()

    def _images(self, images: Tensor) -> Tensor:
        fits = isinstance(images, Tensor) and images.is_floating_point() and images.ndim in (4, 5)
        if not fits:
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


class Learner(Method, ABC):
    """Base of the methods that learn: takes one guarded step and undoes it where it must.

    Parameters
    ----------
    network : nn.Module
    learning_rate : float
    **common
        See `Method`.
    """

    learns = True

    def __init__(
        self, network: nn.Module, learning_rate: float = 1e-4, **common: Unpack[Common]
    ) -> None:
        super().__init__(network, **common)
        self.learning_rate = float(checked("learning_rate", learning_rate))

    def step(self, images: Tensor, supervision: Supervision | None = None) -> StepRecord:
        return self._step(images, supervision)

    def step_on_batch(self, images: Tensor, supervision: Supervision | None = None) -> StepRecord:
        return self._step(images, supervision, shown=1)

    def _step(
        self, images: Tensor, supervision: Supervision | None, shown: int | None = None
    ) -> StepRecord:
        """Take a guarded step on all of the images, and predict the first ``shown`` (all)."""
        images = self._images(images)
        before = self._state(self.device)
        try:
            self.objectives.supervision = supervision and supervision.to(images)
            figures = self._learn(images)
            by_layer = figures.pop(LAYERS, None)
            output = self.predict(images[:shown])
            # One transfer from the device for all figures of the step.
            finite = torch.stack([one.isfinite().all() for one in (*output, self._flat.values)])
            numbers = [*(one.reshape(()) for one in figures.values()), finite.all().to(self.dtype)]
            *values, is_finite = torch.stack(numbers).tolist()
            told: dict[str, Any] = dict(zip(figures, values, strict=True))
            if by_layer is not None:
                told[LAYERS] = dict(zip(self._flat.layers, by_layer.tolist(), strict=True))
        except BaseException:
            # Out of memory or interrupted halfway: the step did not take place.
            self.restore(before)
            raise
        finally:
            self.objectives.supervision = None
        if is_finite and all(map(math.isfinite, values)):
            return StepRecord(*output, **told)
        self.restore(before)
        unknown: dict[str, Any] = dict.fromkeys(figures, math.nan)
        return StepRecord(*self.predict(images[:shown]), undone=True, **unknown)

    @abstractmethod
    def _learn(self, images: Tensor) -> dict[str, Tensor]:
        """Change θ on ``images`` and return the figures of the step, by `StepRecord` name."""

    def _descend(self, loss: Tensor) -> dict[str, Tensor]:
        """Take one Adam step along −∂loss/∂θ at the fixed rate; return the step's figures."""
        gradient, _ = self._flat.gradient(loss)
        rate = torch.full_like(loss.detach(), self.learning_rate)
        self._adam.step(self._flat.values, gradient, rate)
        return {
            "learning_rate": rate,
            "pseudo_loss": loss.detach(),
            "pseudo_norm": torch.linalg.vector_norm(gradient),
        }


class MethodError(ValueError):
    """A method of another package failed; the message names both."""


@contextmanager
def _naming(info: MethodInfo) -> Iterator[None]:
    """Say whose method failed, where another package brings it."""
    try:
        yield
    except Exception as error:
        if not info.package or isinstance(error, MethodError) or is_out_of_memory(error):
            raise
        raise MethodError(
            f"The {info.described} failed ({type(error).__name__}: {error}). Mend the package, or "
            "choose another method."
        ) from error


def make_method(
    settings: Settings,
    network: nn.Module,
    activation: str = "sigmoid",
    views: Sequence[str] = VIEWS,
) -> Method:
    """Build the method that ``settings`` describe, on ``network`` and its device.

    Raises
    ------
    ValueError
        If the network cannot serve the settings (a head or every normalisation layer missing), or
        the package that brings the method fails; so do its steps then.
    """
    info = METHODS[settings.method]
    chosen = {name: getattr(settings, name) for name in (*_BY_ALL, *info.settings_used)}
    kind = info.load()
    with _naming(info):
        built: Method = kind(network, activation=activation, views=views, **chosen)
        for work in ("step", "step_on_batch", "predict") if info.package else ():
            setattr(built, work, _naming(info)(getattr(built, work)))
    return built


def method_for(settings: Settings, segmenter: Segmenter) -> Method:
    """Build the method that ``settings`` describe on a segmenter, with the views of its card."""
    card = segmenter.card
    return make_method(settings, segmenter.network, card.activation, card.views)
