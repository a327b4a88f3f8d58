"""A program (TorchScript, torch.export) as a network whose scale and shift can be adapted."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from typing_extensions import Self


class ScaleAndShift(nn.LayerNorm):
    """Scale and shift of a layer inside a program, where methods look for them; never called."""

    def __init__(self) -> None:
        super().__init__((), elementwise_affine=False)


class Program(nn.Module):
    """A program as a network whose scale and shift can be adapted.

    Parameters
    ----------
    program : ScriptModule or GraphModule
    layers : mapping of str to tuple of str
        Names of the normalisation layers, and of their parameters within.
    single : bool
        Whether it takes one image at a time, whatever the batch.
    """

    def __init__(
        self, program: nn.Module, layers: Mapping[str, tuple[str, ...]], single: bool
    ) -> None:
        super().__init__()
        self._layers, self._single = dict(layers), single
        self._program = program
        for path in layers:
            place: nn.Module = self
            *parents, last = path.split(".")
            for name in parents:
                if name not in place._modules:
                    place.add_module(name, nn.Module())
                place = place._modules[name]  # type: ignore[assignment]
            place.add_module(last, ScaleAndShift())
        self._link()

    def _link(self) -> None:
        """Make the parameters that are seen the very ones that the program computes with."""
        for path, names in self._layers.items():
            seen, within = self.get_submodule(path), self._program
            for part in path.split("."):
                within = getattr(within, part)
            for name in names:
                parameter = getattr(within, name)
                if not isinstance(parameter, nn.Parameter):
                    # TorchScript hands out plain tensors; it takes over what it is given.
                    parameter = nn.Parameter(parameter.detach(), requires_grad=False)
                    setattr(within, name, parameter)
                setattr(seen, name, parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, S, h, w) of images (B, C, h, w)."""
        parts = x.split(1) if self._single else (x,)
        found = [self._program(part) for part in parts]
        first = found[0]
        if isinstance(first, (tuple, list)) and len(first) == 1:
            found = [one[0] for one in found]
        if len(found) == 1:
            answer: torch.Tensor = found[0]
            return answer
        return torch.cat(found)

    def train(self, mode: bool = True) -> Self:
        """Note the mode; an exported program has but the one that it was exported in."""
        self.training = mode
        return self

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._program._apply(fn)
        self._link()
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        with warnings.catch_warnings():
            # PyTorch's own, about its own code.
            warnings.simplefilter("ignore", FutureWarning)
            program = copy.deepcopy(self._program, memo)
        twin = Program(program, self._layers, self._single)
        for parameter in twin.parameters():
            parameter.requires_grad_(False)
        return twin
