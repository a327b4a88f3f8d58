"""Weights of a model folder: safetensors, checked against the card's SHA-256."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .card import CARD_FILE, WEIGHTS_FILE, Card, card_to_yaml

if TYPE_CHECKING:
    import torch
    from torch import nn


class WeightsError(ValueError):
    """Weights that are missing, damaged, or do not belong to their card."""


def write_model(
    folder: str | Path,
    card: Card,
    network: nn.Module | Mapping[str, torch.Tensor],
    half: bool = True,
) -> Card:
    """Write a model folder: ``weights.safetensors``, then ``card.yaml`` with their SHA-256.

    Parameters
    ----------
    folder : path
        Made if it is not there. Both files are written beside their place and renamed; the card
        comes last, so that a crash in between is noticed by the SHA-256.
    card : Card
        Its ``weights_sha256`` is replaced, and a ``shift`` of other weights is left out.
    network : nn.Module or state dict
    half : bool
        Store tensors of two and more dimensions (convolutions) as float16. Biases and everything
        that belongs to normalisation stay float32: variances do not fit float16's range.

    Returns
    -------
    Card
        As written.
    """
    from safetensors.torch import save

    state = network if isinstance(network, Mapping) else network.state_dict()
    content = save({key: _stored(tensor, half) for key, tensor in state.items()})
    digest = hashlib.sha256(content).hexdigest()
    # Distances that were measured with other weights say nothing about these.
    kept = card.shift if card.shift is not None and card.shift.weights == digest else None
    card = replace(card, weights_sha256=digest, shift=kept)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / WEIGHTS_FILE, content)
    _write(folder / CARD_FILE, card_to_yaml(card).encode("utf-8"))
    return card


def load_weights(folder: str | Path, card: Card) -> dict[str, torch.Tensor]:
    """Read a model folder's weights, floats as float32, after checking them against the card.

    Raises
    ------
    WeightsError
        The file is missing, is not safetensors, or is not the one that the card describes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    file = Path(folder) / WEIGHTS_FILE
    content = _read(file)
    check_digest(file, content, card)
    try:
        state = load(content)
    except SafetensorError as error:
        raise WeightsError(f"{file} is not a safetensors file ({error}).") from error
    return {key: t.float() if t.is_floating_point() else t for key, t in state.items()}


def check_digest(file: Path, content: bytes, card: Card) -> None:
    """Raise WeightsError unless `content` has the SHA-256 that the card names."""
    digest = hashlib.sha256(content).hexdigest()
    if card.weights_sha256 is None:
        raise WeightsError(
            f"The card of {card.name!r} has no SHA-256 for {file}. If you trust this file, add "
            f"the line 'weights_sha256: {digest}' to {CARD_FILE}."
        )
    if digest != card.weights_sha256:
        raise WeightsError(
            f"{file} is not the file that its card describes: its SHA-256 starts with "
            f"{digest[:12]}, the card says {card.weights_sha256[:12]}. It may be damaged, cut "
            "short or exchanged; fetch the model again."
        )


def check_folder(folder: str | Path, card: Card) -> None:
    """Check without torch that a folder's weights are there and are those of the card."""
    file = Path(folder) / WEIGHTS_FILE
    check_digest(file, _read(file), card)


def fill_network(network: nn.Module, state: Mapping[str, torch.Tensor], *, origin: str) -> None:
    """Load `state` into `network`; every key must match.

    Raises
    ------
    WeightsError
        Naming the missing, unexpected or differently shaped tensors.
    """
    expected = network.state_dict()
    # A counter that no computation here reads; older PyTorch did not save it.
    missing = [key for key in expected if key not in state and not key.endswith("_tracked")]
    unexpected = [key for key in state if key not in expected]
    shapes = [
        f"{key} is {_shape(state[key])}, expected {_shape(expected[key])}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    parts = [
        f"{title}: {_listed(names)}"
        for title, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("other shapes", shapes),
        )
        if names
    ]
    if parts:
        raise WeightsError(f"{origin} does not fit the network. {'; '.join(parts)}.")
    network.load_state_dict(state, strict=False)


def _stored(tensor: torch.Tensor, half: bool) -> torch.Tensor:
    import torch

    tensor = tensor.detach().to("cpu").clone().contiguous()
    if not tensor.is_floating_point():
        return tensor
    tensor = tensor.float()
    if half and tensor.ndim >= 2 and bool(tensor.abs().max() < torch.finfo(torch.half).max):
        return tensor.half()
    return tensor


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise WeightsError(
            f"{file} is missing. A model is a folder with {CARD_FILE} and {WEIGHTS_FILE}."
        ) from None
    except OSError as error:
        raise WeightsError(f"{file} cannot be read ({error}).") from error


def _write(file: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes files for the owner alone; a shared model folder is read by others.
        temporary.chmod(0o644)
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _shape(tensor: torch.Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"


def _listed(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
