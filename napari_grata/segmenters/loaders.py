"""Kinds of model and how each is read: the register, and folders with a card and weights.

A loader looks at a path and returns network and card. A new kind is a subclass of `Loader` under
`register_loader`, in a module named in `_MODULES`. Nothing is imported from torch before a model is
loaded, and no file can run a program on this machine.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from napari_grata.scans.files import make_folder, write_bytes

from .card import CARD_FILE, WEIGHTS_FILE, Card, load_card, write_card
from .checkpoint import LARGEST_FILE, archive_kind, read_checkpoint, state_dict
from .checkpoint import WeightsError as WeightsError
from .factory import build_network as build_network
from .factory import check_answer
from .factory import register_network as register_network

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class LoadedModel:
    """What a loader returns.

    Attributes
    ----------
    card : Card
    network : nn.Module
        On the CPU, with the model's weights, all of them finite.
    notices : tuple of str
        What a person who uses it should know, such as what cannot adapt.
    program : (str, bytes) or None
        Of a network that is a program: the name for its file, and the program as it is.
    """

    card: Card
    network: nn.Module
    notices: tuple[str, ...] = ()
    program: tuple[str, bytes] | None = None


class Loader(ABC):
    """One kind of model."""

    kind: ClassVar[str]
    """Its name in `LOADERS`."""

    @abstractmethod
    def takes(self, path: Path) -> bool:
        """Whether a path looks like a model of this kind; a glance, without torch."""

    @abstractmethod
    def load(self, path: Path) -> LoadedModel:
        """Read a model.

        Raises
        ------
        ModelError
            `CardError` or `WeightsError`, with what is wrong and what to do.
        """

    def install(self, path: Path, folder: Path) -> Card:
        """Check a model and write it as a model folder; returns the card as written."""
        model = self.load(path)
        if model.program is None:
            return write_model(folder, model.card, model.network, half=False)
        name, content = model.program
        write_bytes(folder / name, content)
        write_card(folder, model.card)
        return model.card


#: Endings of files that PyTorch writes.
WEIGHT_SUFFIXES = (".pth", ".pt", ".ckpt", ".pt2", ".ts")
_MODULES = ("nnunet", "monai_bundle", "exported", "published")
LOADERS: dict[str, Loader] = {}
"""Every kind of model by its name; asked in this order."""


def register_loader(loader: type[Loader]) -> type[Loader]:
    """Let models of a kind be listed, added and loaded (a class decorator)."""
    if loader.kind in LOADERS:
        raise ValueError(f"There is a kind of model called {loader.kind!r} already.")
    LOADERS[loader.kind] = loader()
    return loader


def loader_for(path: Path) -> Loader:
    """Return the loader of the model at a path.

    Raises
    ------
    WeightsError
        No kind of model looks like this.
    """
    for module in _MODULES:
        importlib.import_module(f"{__package__}.{module}")
    for loader in LOADERS.values():
        if loader.takes(path):
            return loader
    raise WeightsError(
        f"{path / WEIGHTS_FILE} is missing. A model is a folder with {CARD_FILE} and one file of "
        f"weights ({WEIGHTS_FILE}, a .pth state dict, TorchScript, torch.export), or a published "
        ".pth file."
    )


def model_path(path: Path) -> Path:
    """Return the model's folder for one of its files, any other path as it is."""
    if not os.path.isfile(path):
        return path
    named = path.name in (CARD_FILE, WEIGHTS_FILE)
    return path.parent if named or weights_beside_card(path.parent) == path else path


def weights_beside_card(folder: Path) -> Path | None:
    """Return the one file of PyTorch's that lies beside a card, None if there is none or several.

    ``weights.safetensors`` comes first: then other files are no part of the model.
    """
    if not os.path.isfile(folder / CARD_FILE) or os.path.isfile(folder / WEIGHTS_FILE):
        return None
    found = [file for file in folder.iterdir() if file.suffix in WEIGHT_SUFFIXES]
    return found[0] if len(found) == 1 and os.path.isfile(found[0]) else None


# -- weights into networks -----------------------------------------------------------------


def fill_network(network: nn.Module, state: Mapping[str, torch.Tensor], *, origin: str) -> None:
    """Load `state` into `network`: every key and shape must match, every value be finite.

    Names and shapes are looked at first, so that tensors which only claim to be large (a single
    value, expanded) are refused before memory is taken for them.

    Raises
    ------
    WeightsError
        Naming the missing, unexpected, differently shaped or damaged tensors.
    """
    expected = network.state_dict()
    # A counter that no computation here reads; older PyTorch did not save it.
    missing = [key for key in expected if key not in state and not key.endswith("_tracked")]
    unexpected = [key for key in state if key not in expected]
    shapes = [
        f"{key} is {_shape(state[key])}, expected {_shape(expected[key])}"
        for key in expected
        if key in state and not _alike(state[key], expected[key])
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
    numbers = {key: tensor.detach().to(expected[key].dtype) for key, tensor in state.items()}
    check_finite(numbers, origin)
    network.load_state_dict(numbers, strict=False)


def check_finite(state: Mapping[str, torch.Tensor], origin: str) -> None:
    """Raise WeightsError, naming tensors, where values are NaN or infinite."""
    broken = [k for k, t in state.items() if t.is_floating_point() and not t.isfinite().all()]
    if broken:
        raise WeightsError(
            f"{origin} holds values that are not finite numbers, in {_listed(broken)}. Its "
            "training failed, or the file is damaged; fetch the model again."
        )


def _alike(given: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether one tensor can take another's place; its numbers are not read."""
    import torch

    plain = given.layout == torch.strided and given.device.type == "cpu"
    plain = plain and not given.is_quantized and not given.is_complex()
    real = given.is_floating_point() or not expected.is_floating_point()
    return plain and real and given.shape == expected.shape


def _shape(tensor: torch.Tensor) -> str:
    shape = "×".join(map(str, tensor.shape)) or "a number"
    return shape if tensor.is_floating_point() else f"{shape} ({tensor.dtype})"


def _listed(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name[:200] for name in names[:most]) + more


# -- folders with card and safetensors -------------------------------------------------------


@register_loader
class SafetensorsFolder(Loader):
    """``card.yaml`` and ``weights.safetensors``, held together by a SHA-256 in the card."""

    kind = "safetensors"

    def takes(self, path: Path) -> bool:
        return os.path.isfile(path / WEIGHTS_FILE)

    def load(self, path: Path) -> LoadedModel:
        from safetensors import SafetensorError
        from safetensors.torch import load

        card, file = load_card(path), path / WEIGHTS_FILE
        content = _described(card, file)
        try:
            state = load(content)
        except (SafetensorError, ValueError, KeyError) as error:
            raise WeightsError(f"{file} is not a safetensors file ({str(error)[:200]}).") from error
        return LoadedModel(card, _filled(card, state, file))

    def install(self, path: Path, folder: Path) -> Card:
        card = load_card(path)
        write_bytes(folder / WEIGHTS_FILE, _described(card, path / WEIGHTS_FILE))
        write_bytes(folder / CARD_FILE, read_file(path / CARD_FILE))
        return card


@register_loader
class StateDictFolder(Loader):
    """``card.yaml`` and one ``.pth`` file with a state dict, as ``torch.save`` writes it.

    The card's network is built in, of an installed package or a function; see `factory`. Adding
    such a folder writes a `SafetensorsFolder`.
    """

    kind = "state dict"

    def takes(self, path: Path) -> bool:
        file = weights_beside_card(path)
        return file is not None and archive_kind(file) in ("checkpoint", None)

    def load(self, path: Path) -> LoadedModel:
        card, file = load_card(path), weights_beside_card(path)
        assert file is not None
        card, _ = with_digest(card, file)
        return LoadedModel(card, _filled(card, state_dict(read_checkpoint(file), file), file))


def with_digest(card: Card, file: Path) -> tuple[Card, bytes]:
    """Return a card that names its weights, and these: one of the user's own may leave that out.

    Raises
    ------
    WeightsError
        It names others.
    """
    if card.weights_sha256 is None:
        content = read_file(file)
        return replace(card, weights_sha256=hashlib.sha256(content).hexdigest()), content
    return card, _described(card, file)


def _filled(card: Card, state: Mapping[str, torch.Tensor], file: Path) -> nn.Module:
    network = build_network(card)
    if "plan" in card.arguments and not any(key.startswith("folds.") for key in state):
        state = {f"folds.0.{key}": tensor for key, tensor in state.items()}
    fill_network(network, state, origin=str(file))
    check_answer(card, network)
    return network


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
        Made if it is not there. The card comes last, so that a crash in between is noticed by
        the SHA-256.
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
    folder = make_folder(folder)
    write_bytes(folder / WEIGHTS_FILE, content)
    write_card(folder, card)
    return card


def _stored(tensor: torch.Tensor, half: bool) -> torch.Tensor:
    import torch

    tensor = tensor.detach().to("cpu").clone().contiguous()
    if not tensor.is_floating_point():
        return tensor
    tensor = tensor.float()
    if half and tensor.ndim >= 2 and bool(tensor.abs().max() < torch.finfo(torch.half).max):
        return tensor.half()
    return tensor


def read_file(file: Path) -> bytes:
    """Return a file's content; WeightsError where it is too large or cannot be read."""
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise WeightsError(f"{file} is larger than {LARGEST_FILE >> 30} GB; it is not read.")
        return file.read_bytes()
    except OSError as error:
        raise WeightsError(f"{file} cannot be read ({error.strerror}).") from error


def _described(card: Card, file: Path) -> bytes:
    """Return a file's content; WeightsError unless it has the SHA-256 that the card names."""
    content = read_file(file)
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
    return content
