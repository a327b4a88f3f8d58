"""MGG: a small learned optimiser with a memory of gradients takes the steps."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from napari_grata.segmenters.registry import user_models_dir

from .base import Learner, Snapshot
from .register import register

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Unpack

    from .base import Common

WIDTH = 8
FILE = "optimiser.safetensors"


class GradientMemory(nn.Module):
    """From each parameter's history of gradients to its step, −1 … 1; one network for all.

    h = tanh(A·f + a) of what is known of a parameter, f = (g/√v, m/√v) with Adam's moments; the
    memory W is a linear layer that learns at every step, on all parameters, to find B·h from K·h:
    W ← W − η·∇½‖W·K·h − B·h‖², the mean over parameters (a test-time-training layer). The step is
    tanh(m/√v + c·(h + W·Q·h) + d); c and d begin at zero, so that an untrained one is Adam, bent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(2, WIDTH)
        self.key, self.value, self.query = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.start = nn.Parameter(torch.zeros(WIDTH, WIDTH))
        self.rate = nn.Parameter(torch.tensor(0.1))
        self.write = nn.Linear(WIDTH, 1)
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)

    def forward(self, history: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the directions (n,) of n parameters, and the memory from now on.

        Parameters
        ----------
        history : Tensor, shape (n, 2)
        memory : Tensor, shape (8, 8)
        """
        known = torch.tanh(self.read(history))
        keys = self.key(known)
        missed = keys @ memory.T - self.value(known)
        memory = memory - self.rate * (missed.T @ keys) / len(keys)
        found = known + self.query(known) @ memory.T
        return torch.tanh(history[:, 1] + self.write(found)[:, 0]), memory


def optimiser_file() -> Path:
    """Return the file of the user's own optimiser; that of the package where there is none."""
    own = user_models_dir().parent / FILE
    return own if own.is_file() else Path(str(files(__package__).joinpath(FILE)))


def load_optimiser() -> GradientMemory:
    """Read the optimiser that `optimiser_file` names.

    Raises
    ------
    ValueError
        If it is no such file; the message names it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path, optimiser = optimiser_file(), GradientMemory()
    try:
        optimiser.load_state_dict(load(path.read_bytes()))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"{path} holds no optimiser ({str(error)[:100]}). Train one with napari-grata "
            "train-optimiser, or delete the file to have that of the package."
        ) from error
    return optimiser


@register(
    name="mgg",
    title="Learned optimiser (MGG)",
    summary="Learns to be sure of its answers, by steps of a small network that was trained "
    "beforehand to read the history of gradients.",
    learns="theta",
    settings_used=(
        "learning_rate",
        "pseudo",
        "blend",
        "symmetric_entropy",
        "stag",
        "parameters",
        "names",
    ),
    defaults={"learning_rate": 1e-3, "pseudo": "entropy", "symmetric_entropy": True},
)
class MGG(Learner):
    """Memory-based gradient guidance (arXiv 2412.16901), small, as we read it.

    θ ← θ − β·u with the directions u of a `GradientMemory` that reads the gradient of one objective
    and its moments (Adam's, betas 0.9 and 0.999). The memory lives on over the stream, as θ does.
    Which weights it has: see `optimiser_file`; they are part of the state, so that a run goes on
    with those that it began with. ``napari-grata train-optimiser`` trains them on unlabelled scans
    of the source centre, made to look like others'. Inputs, sizes and training are our reading.

    Parameters
    ----------
    network, learning_rate, **common
        See `Learner`.
    pseudo : str
        Objective, one of ``settings.OBJECTIVES``.
    """

    def __init__(
        self,
        network: nn.Module,
        learning_rate: float = 1e-3,
        *,
        pseudo: str = "entropy",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(network, learning_rate, **common)
        self.pseudo = pseudo
        self.objectives.check(pseudo)
        self.optimiser = load_optimiser().to(self.device, self.dtype)
        self._memory = self.optimiser.start.detach().clone()

    def _state(self, device: torch.device) -> Snapshot:
        weights = nn.utils.parameters_to_vector(self.optimiser.parameters())
        known = torch.cat([self._memory.flatten(), weights.detach()])
        return replace(super()._state(device), student=known.to(device, copy=True))

    def restore(self, snapshot: Snapshot) -> None:
        super().restore(snapshot)
        known = snapshot.student.to(self._memory)
        if len(known):  # a state of another method that a run begins with knows nothing
            self._memory = known[: WIDTH * WIDTH].reshape(WIDTH, WIDTH).clone()
            nn.utils.vector_to_parameters(known[WIDTH * WIDTH :], self.optimiser.parameters())

    def reset(self) -> None:
        super().reset()
        self._memory = self.optimiser.start.detach().clone()

    def _learn(self, images: Tensor) -> dict[str, Tensor]:
        loss = self.objectives.loss(self.pseudo, images)
        gradient, _ = self._flat.gradient(loss)
        with torch.no_grad():
            direction, self._memory = self.optimiser(self.history(gradient), self._memory)
        rate = torch.full_like(loss.detach(), self.learning_rate)
        self._flat.values.sub_(rate * direction)
        return {
            "learning_rate": rate,
            "pseudo_loss": loss.detach(),
            "pseudo_norm": torch.linalg.vector_norm(gradient),
        }

    def history(self, gradient: Tensor) -> Tensor:
        """Count a gradient in; return what the optimiser reads of it and those before, (n, 2)."""
        adam, (first, second) = self._adam, self._adam.betas
        adam.count += 1
        adam.first.lerp_(gradient, 1 - first)
        adam.second.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        size = (adam.second / (1 - second**adam.count)).sqrt() + adam.eps
        mean = adam.first / (1 - first**adam.count)
        return torch.stack([gradient / size, mean / size], 1)
