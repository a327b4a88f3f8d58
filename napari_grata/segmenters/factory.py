"""From a card's ``architecture`` to a network: built in, of an installed package, or a function.

A card may come from a stranger, and a function with arguments is a program: ``torch.hub:load``
would fetch and run one. So a function is called only where somebody on this machine allowed it,
by installing a package that offers it or by naming its module in the environment.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import math
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .card import Card, CardError
from .card_fields import shortened
from .devices import is_out_of_memory

if TYPE_CHECKING:
    from torch import nn

ENTRY_POINTS = "napari_grata.networks"
"""Group of entry points in which a package offers networks by name."""
ALLOWED_VARIABLE = "NAPARI_GRATA_NETWORKS"
"""Modules whose functions cards may name, separated by commas."""

_FUNCTION = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")


def _ours(module: str, name: str) -> Callable[..., nn.Module]:
    """A factory of this package, imported when it is called."""

    def build(**arguments: Any) -> nn.Module:
        network: nn.Module = getattr(importlib.import_module(module, __package__), name)(
            **arguments
        )
        return network

    return build


_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "resunet": _ours(".resunet", "ResUNet"),
    "nnunet": _ours(".nnunet_segmenter", "build"),
    "monai": _ours(".monai_bundle", "build"),
}


def register_network(name: str, factory: Callable[..., nn.Module]) -> None:
    """Let cards say ``architecture: name``.

    Parameters
    ----------
    name : str
    factory : callable
        Called with the card's arguments and ``outputs`` and ``channels``; returns a module that
        maps (B, channels, h, w) in [0, 1] to logits (B, outputs, h, w) for sides that are
        multiples of 32.

    Raises
    ------
    ValueError
        The name is taken by another factory.
    """
    if _NETWORKS.get(name, factory) is not factory:
        raise ValueError(f"There is a network called {name!r} already; choose another name.")
    _NETWORKS[name] = factory


def build_network(card: Card) -> nn.Module:
    """Build a card's network with fresh weights, in training mode on the CPU.

    Raises
    ------
    CardError
        The architecture is unknown or not allowed, does not take the card's arguments, or gives
        something else than a network.
    """
    factory = _factory(card)
    own = {"outputs": card.outputs, "channels": card.channels}
    arguments = {**card.arguments, **{k: v for k, v in own.items() if _takes(factory, k)}}
    plan = None if card.architecture == "nnunet" else arguments.pop("plan", None)
    try:
        network = factory(**arguments)
    except ImportError as error:
        raise CardError(f"The network of {card.name!r} cannot be built: {error}") from error
    except Exception as error:  # of a function that we do not know, whatever it meets
        if is_out_of_memory(error):
            raise
        raise CardError(
            f"The card of {card.name!r} gives {card.architecture!r} arguments that it does not "
            f"take: {str(error)[:300]}"
        ) from error
    from torch import nn

    if not isinstance(network, nn.Module):
        raise CardError(
            f"The function {card.architecture!r} of {card.name!r} gives a "
            f"{type(network).__name__}; it should return the network, a torch.nn.Module."
        )
    return network if plan is None else windowed(card, network)


def windowed(card: Card, network: nn.Module) -> nn.Module:
    """Return a network with the windows of the plan in a card's arguments, if there is one."""
    if "plan" not in card.arguments:
        return network
    from .planned import PlannedWindow, ReadingPlan

    try:
        return PlannedWindow(network, ReadingPlan.from_arguments(card.arguments["plan"]))
    except (TypeError, ValueError) as error:
        raise CardError(f"The card of {card.name!r} has a plan that is none: {error}") from error


def check_answer(card: Card, network: nn.Module) -> None:
    """Try a network on a blank picture: it must give one map for each of the card's outputs.

    Raises
    ------
    CardError
        It does not take the card's pictures, or answers otherwise.
    """
    if card.architecture in _NETWORKS:
        return
    import torch

    sides: tuple[int, ...] = card.size or (64, 64)
    if "plan" in card.arguments:
        # Of a plan's network one window is tried, without what lies around it.
        network = network.folds[0]  # type: ignore[index,assignment]
        patch = tuple(side or 64 for side in card.arguments["plan"]["patch"])
        sides = patch if math.prod(patch) <= 128**3 else (64,) * len(patch)
    shape = (1, card.outputs, *sides)
    given = " × ".join(map(str, (card.channels, *sides)))
    network.eval()
    try:
        with torch.inference_mode():
            answer: Any = network(torch.zeros(1, card.channels, *sides))
    except Exception as error:  # of code that we do not know, whatever it meets
        if is_out_of_memory(error):
            raise
        last = (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
        raise CardError(
            f"The network of {card.name!r} does not take a picture of {given} (channels, then "
            f"sides), as its card says: {last}"
        ) from error
    if isinstance(answer, torch.Tensor) and tuple(answer.shape) == shape:
        return
    is_tensor = isinstance(answer, torch.Tensor)
    found = "×".join(map(str, answer.shape)) if is_tensor else f"a {type(answer).__name__}"
    raise CardError(
        f"The network of {card.name!r} answers a picture of {given} with {found}; it "
        f"should be one tensor, {'×'.join(map(str, shape))}: {card.outputs} outputs for the card's "
        f"{len(card.structures)} structures ({card.activation})."
    )


def _takes(factory: Callable[..., Any], name: str) -> bool:
    """Whether a factory is to be given this; those of others may have other names for it."""
    if factory in _NETWORKS.values():
        return True
    try:
        return name in inspect.signature(factory).parameters
    except (TypeError, ValueError):  # written in C, without a signature
        return False


def _factory(card: Card) -> Callable[..., nn.Module]:
    name = card.architecture
    if name in _NETWORKS:
        return _NETWORKS[name]
    points = importlib.metadata.entry_points(group=ENTRY_POINTS)
    offered = {point.name: point for point in points}
    if name in offered:
        return _loaded(card, offered[name].load)
    match = _FUNCTION.fullmatch(name)
    if match is None:
        known = ", ".join(sorted({*_NETWORKS, *offered}))
        raise CardError(
            f"The card of {card.name!r} asks for the network {shortened(name)}; this version knows "
            f"{known}. A newer napari-grata may know it, or a package that is not installed here."
        )
    module, function = match.groups()
    if module not in map(str.strip, os.environ.get(ALLOWED_VARIABLE, "").split(",")):
        raise CardError(
            f"The card of {card.name!r} asks for {name!r}, a function of the module {module}. A "
            "function is a program, so it is called only where you allow it: if you trust this "
            f"model and that module, set {ALLOWED_VARIABLE}={module} and try again."
        )
    return _loaded(card, lambda: getattr(importlib.import_module(module), function))


def _loaded(card: Card, load: Callable[[], Any]) -> Callable[..., nn.Module]:
    try:
        factory: Callable[..., nn.Module] = load()
    except Exception as error:  # the module's own code runs, whatever it meets
        raise CardError(
            f"The network {card.architecture!r} of {card.name!r} cannot be imported: "
            f"{type(error).__name__}: {str(error)[:300]}. Install its package, or mend the name."
        ) from error
    return factory
