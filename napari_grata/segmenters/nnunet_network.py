"""The network of an nnU-Net card: its folds, their window, and intensities brought to [0, 1]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from .nnunet import NETWORKS, Plan
from .sliding_window import SlidingWindow

#: z-scores that become 0 and 1; a network with instance normalisation does not care which.
Z_SCORES = (-3.0, 5.0)


def build(
    *,
    plan: Mapping[str, Any],
    network: Mapping[str, Any],
    folds: Sequence[str],
    outputs: int,
    channels: int,
) -> nn.Module:
    """Build the network of a card's arguments.

    Raises
    ------
    ImportError
        The package with the networks is not installed; the message says how.
    """
    kept = Plan.from_arguments(plan)
    ranges = [intensity_range(kept, n) for n in range(len(kept.schemes))]
    return SlidingWindow(
        [_unet(network, outputs, channels) for _ in folds],
        kept.patch,
        [high - low for low, high in ranges],
        [low for low, _ in ranges],
    )


def intensity_range(plan: Plan, channel: int) -> tuple[float, float]:
    """Return which normalised intensities of a channel become 0 and 1.

    They are the same for every scan, so that the network can take them back. Intensities beyond
    them are kept, not clipped.
    """
    scheme, found = plan.schemes[channel], plan.intensities[channel]
    if scheme == "CTNormalization" and found is not None:
        deviation = max(found["std"], 1e-8)
        low, high = ((found[end] - found["mean"]) / deviation for end in ("low", "high"))
    elif scheme == "ZScoreNormalization":
        low, high = Z_SCORES
    elif scheme == "NoNormalization" and found is not None:
        low, high = found["low"], found["high"]
    else:
        low, high = 0.0, 1.0
    return (low, high) if high > low else (low, low + 1.0)


def _unet(network: Mapping[str, Any], outputs: int, channels: int) -> nn.Module:
    try:
        from dynamic_network_architectures.architectures import unet
    except ImportError as error:
        raise ImportError(
            "networks of nnU-Net need the package dynamic-network-architectures: "
            "pip install 'napari-grata[nnunet]', then try again."
        ) from error
    arguments = dict(network)
    name = arguments.pop("class")
    if name not in NETWORKS or not hasattr(unet, name):
        raise ValueError(f"the network {name!r} is not among {', '.join(NETWORKS)}")
    for key in ("conv_op", "norm_op", "dropout_op", "nonlin"):
        if arguments.get(key) is not None:
            arguments[key] = _layer(arguments[key])
    arguments["deep_supervision"] = False
    made: nn.Module = getattr(unet, name)(input_channels=channels, num_classes=outputs, **arguments)
    return made


def _layer(name: str) -> type[nn.Module]:
    """Return one of PyTorch's layers by name, and nothing else that could be called."""
    found = getattr(nn, str(name), None)
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        raise ValueError(f"{name!r} is no layer of torch.nn")
    return found
