"""Kinds of model and how each is read: folders with a card, and published checkpoints.

A loader looks at a path and returns network and card. A new kind is a subclass of `Loader` under
`register_loader`. Nothing is imported from torch before a
model is loaded, and no file can run a program.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickletools
import re
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar

from napari_grata.scans.files import make_folder, sha256_of, write_bytes

from .card import (
    CARD_FILE,
    WEIGHTS_FILE,
    Card,
    CardError,
    ModelError,
    Structure,
    load_card,
    write_card,
)
from .card_fields import shortened

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Weights beyond this are no segmenter that fits beside a scan.
LARGEST_FILE = 2 * 2**30


class WeightsError(ModelError):
    """Weights that are missing, damaged, not numbers, or do not belong to their card."""


@dataclass(frozen=True)
class LoadedModel:
    """What a loader returns.

    Attributes
    ----------
    card : Card
    network : nn.Module
        On the CPU, with the model's weights, all of them finite.
    """

    card: Card
    network: nn.Module


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

    @abstractmethod
    def install(self, path: Path, folder: Path) -> Card:
        """Check a model and write it as a model folder; returns the card as written."""


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
    for loader in LOADERS.values():
        if loader.takes(path):
            return loader
    raise WeightsError(
        f"{path / WEIGHTS_FILE} is missing. A model is a folder with {CARD_FILE} and "
        f"{WEIGHTS_FILE}, or a published .pth file."
    )


# -- networks --------------------------------------------------------------------------------


def _resunet(**arguments: Any) -> nn.Module:
    from .resunet import ResUNet

    return ResUNet(**arguments)


_NETWORKS: dict[str, Callable[..., nn.Module]] = {"resunet": _resunet}


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
        The architecture is unknown, or does not take the card's arguments.
    """
    factory = _NETWORKS.get(card.architecture)
    if factory is None:
        raise CardError(
            f"The card of {card.name!r} asks for the network {shortened(card.architecture)}; this "
            f"version knows {', '.join(sorted(_NETWORKS))}. A newer napari-grata may know it."
        )
    arguments = {**card.arguments, "outputs": card.outputs, "channels": card.channels}
    try:
        return factory(**arguments)
    except (TypeError, ValueError) as error:
        raise CardError(
            f"The card of {card.name!r} gives {card.architecture!r} arguments that it does not "
            f"take: {str(error)[:300]}"
        ) from error


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
    broken = [k for k, t in numbers.items() if t.is_floating_point() and not t.isfinite().all()]
    if broken:
        raise WeightsError(
            f"{origin} holds values that are not finite numbers, in {_listed(broken)}. Its "
            "training failed, or the file is damaged; fetch the model again."
        )
    network.load_state_dict(numbers, strict=False)


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

        card = load_card(path)
        file = path / WEIGHTS_FILE
        content = _read(file)
        _check_digest(file, hashlib.sha256(content).hexdigest(), card)
        try:
            state = load(content)
        except (SafetensorError, ValueError, KeyError) as error:
            raise WeightsError(f"{file} is not a safetensors file ({str(error)[:200]}).") from error
        network = build_network(card)
        fill_network(network, state, origin=str(file))
        return LoadedModel(card, network)

    def install(self, path: Path, folder: Path) -> Card:
        card, content = load_card(path), _read(path / WEIGHTS_FILE)
        _check_digest(path / WEIGHTS_FILE, hashlib.sha256(content).hexdigest(), card)
        write_bytes(folder / WEIGHTS_FILE, content)
        write_bytes(folder / CARD_FILE, _read(path / CARD_FILE))
        return card


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


def _read(file: Path) -> bytes:
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise WeightsError(f"{file} is larger than {LARGEST_FILE >> 30} GB; it is not read.")
        return file.read_bytes()
    except OSError as error:
        raise WeightsError(f"{file} cannot be read ({error.strerror}).") from error


def _check_digest(file: Path, digest: str, card: Card) -> None:
    """Raise WeightsError unless a file has the SHA-256 that the card names."""
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


# -- published checkpoints -------------------------------------------------------------------

# Blocks of the four stages, and whether a block has a third convolution.
_ENCODERS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
}
_HEADS = {
    "reconstruction": ("recon",),
    "super-resolution": ("supres",),
    "denoising": ("denoise",),
    "rotation": ("rotate_head",),
}
# Okabe and Ito's colours, told apart by colour-blind readers too.
_COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
#: A state dict of a thousand tensors is described by some hundred kilobytes.
LARGEST_PICKLE = 16 * 2**20
_CLAIMS = re.compile(r"\b(bytearray|\w*Tensor|(Unt|T)ypedStorage)$")
_PROGRAM = (
    "{path} holds more than tensors. It is not opened, because such a file can run programs or "
    "fill the memory. Ask for a plain state dict: torch.save(model.state_dict(), …)."
)
# ImageNet's classifier comes along in the file; the segmenter never calls it.
_CLASSIFIER = ("res.fc.weight", "res.fc.bias")


@register_loader
class PublishedCheckpoint(Loader):
    """A ``.pth`` file of GraTa or VPTTA, recognised by its tensors, never executed.

    These files are state dicts of a ResUNet (Chen et al., AAAI 2025 and CVPR 2024) that finds
    optic disc and cup in fundus photographs of 512 × 512 pixels, each brought to [0, 1] by its
    minimum and maximum; perhaps nested (``{"model_state_dict": …}``), with or without the
    ``module.`` that parallel training puts in front of the names. A file says nothing of this
    itself: encoder, heads and outputs are read from the shapes, the rest is what the
    publications say.
    """

    kind = "published checkpoint"

    def takes(self, path: Path) -> bool:
        return os.path.isfile(path)

    def load(self, path: Path) -> LoadedModel:
        state = _state_dict(_unpickled(path), path)
        card = _describe(state, path)
        network = build_network(card)
        for key in _CLASSIFIER:
            if key not in state and key in network.state_dict():
                state[key] = network.state_dict()[key].clone().zero_()
        try:
            fill_network(network, state, origin=str(path))
        except WeightsError as error:
            raise WeightsError(
                f"{error} It looks like a ResUNet of GraTa or VPTTA, but not quite: was it saved "
                "by another version of that code?"
            ) from None
        return LoadedModel(card, network)

    def install(self, path: Path, folder: Path) -> Card:
        model = self.load(path)
        return write_model(folder, model.card, model.network, half=False)


def _unpickled(path: Path) -> Any:
    import torch

    try:
        _check_size(path)
        _check_pickle(path)
        with warnings.catch_warnings():
            # Old archives of PyTorch announce their age; that is no concern of the user's.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as error:
        # torch.load raises whatever its parsers meet: pickle, zip, key and runtime errors.
        if re.search(r"unsupported (global|class)", str(error), re.IGNORECASE):
            raise WeightsError(_PROGRAM.format(path=path)) from error
        raise WeightsError(
            f"{path} is not a PyTorch checkpoint, or it is damaged or cut short. A model is such "
            f"a .pth file, or a folder with {CARD_FILE} and {WEIGHTS_FILE}."
        ) from error


def _check_size(path: Path) -> None:
    """Refuse an archive that unpacks to more than it is: PyTorch stores, it never compresses."""
    size = unpacked = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > min(size, LARGEST_FILE):
        raise WeightsError(
            f"{path} would unpack to {unpacked / 1e9:.1f} GB from {size / 1e9:.1f} GB; it is not "
            "opened. PyTorch does not compress its checkpoints."
        )


def _check_pickle(path: Path) -> None:
    """Refuse what ``weights_only`` lets pass though no state dict has it: memory of any length."""
    with contextlib.ExitStack() as stack:
        stream: IO[bytes] = stack.enter_context(path.open("rb"))
        pickles = 4  # an old file: a number, a version, the system, and then the mapping
        if zipfile.is_zipfile(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            stream, pickles = stack.enter_context(archive.open(name)), 1
        for _ in range(pickles):
            for operation, argument, place in pickletools.genops(stream):
                claims = operation.name == "GLOBAL" and _CLAIMS.search(str(argument))
                if claims or (place or 0) > LARGEST_PICKLE:
                    raise WeightsError(_PROGRAM.format(path=path))


def _state_dict(found: Any, path: Path) -> dict[str, torch.Tensor]:
    """Return the mapping with most tensors, however deep it lies, without ``module.``."""
    import torch

    best: dict[str, torch.Tensor] = {}
    for item in _mappings(found):
        tensors = {str(k): v for k, v in item.items() if isinstance(v, torch.Tensor)}
        if len(tensors) > len(best):
            best = tensors
    if not best:
        raise WeightsError(f"{path} holds no weights (no mapping of names to tensors).")
    return {re.sub(r"^(module\.)+", "", key): tensor for key, tensor in best.items()}


def _mappings(found: Any, most_deep: int = 4) -> Iterator[Mapping[Any, Any]]:
    seen: set[int] = set()
    level = [found]
    for _ in range(most_deep + 1):
        level = [x for x in level if isinstance(x, Mapping) and id(x) not in seen]
        seen.update(map(id, level))
        yield from level
        level = [value for item in level for value in item.values()]


def _describe(state: Mapping[str, torch.Tensor], path: Path) -> Card:
    needed = ["res.conv1.weight", "up1.bn.weight", "up5.weight", "seg_head.weight"]
    missing = [key for key in needed if key not in state]
    if missing:
        raise WeightsError(
            f"{path} is not a ResUNet of GraTa or VPTTA: it has {len(state)} tensors (the first "
            f"is {next(iter(state))[:200]}), but not {', '.join(missing)}. Other networks can be "
            f"added as a folder with {CARD_FILE} and {WEIGHTS_FILE}."
        )
    encoder = _encoder(state, path)
    first, last = state["res.conv1.weight"].shape, state["seg_head.weight"].shape
    outputs, channels = (last[0], first[1]) if len(first) == len(last) == 4 else (0, 0)
    if not 1 <= outputs <= len(_COLOURS) or channels not in (1, 3):
        raise WeightsError(
            f"{path} has {channels} input channels and {outputs} outputs; expected 1 or 3, and 1 "
            f"to {len(_COLOURS)}."
        )
    heads = [
        name for name, prefixes in _HEADS.items() if any(key.startswith(prefixes) for key in state)
    ]
    disc_and_cup = outputs == 2
    # Files are called last-Res_Unet.pth in every centre's folder, so the content names it too.
    digest = sha256_of(path)
    stem = re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-") or "checkpoint"
    return Card(
        name=f"{stem[:50].strip('-')}-{digest[:6]}",
        title=f"Fundus: disc and cup ({path.stem})" if disc_and_cup else path.stem,
        task="optic disc and cup in fundus photographs" if disc_and_cup else "",
        structures=_structures(outputs),
        activation="sigmoid",
        architecture="resunet",
        arguments={"encoder": encoder, **({"heads": heads} if heads else {})},
        channels=3 if channels == 3 else 1,
        size=(512, 512),
        normalisation={"kind": "min-max"},
        modality="fundus",
        dimensions=2,
        source_centre="not stated in the file",
        training_data=({"name": "not stated in the file", "terms": "not stated in the file"},),
        weights_sha256=digest,
        intended_use=(
            "Converted from a published checkpoint of GraTa or VPTTA. Research and education only, "
            "unless its authors say otherwise."
        ),
        limits=(
            "Trained on crops around the optic disc of 512 × 512 pixels. What the outputs mean is "
            "taken from the publication, not from the file: check it on a scan you know."
        ),
        licence="not stated in the file; see where it was published",
    )


def _encoder(state: Mapping[str, torch.Tensor], path: Path) -> str:
    blocks: list[int] = []
    for stage in range(1, 5):
        pattern = re.compile(rf"res\.layer{stage}\.(\d+)\.")
        numbers = {match[1] for match in map(pattern.match, state) if match}
        blocks.append(len(numbers))
    bottleneck = "res.layer1.0.conv3.weight" in state
    encoder = _ENCODERS.get((tuple(blocks), bottleneck))
    if encoder is None:
        raise WeightsError(
            f"{path} has an encoder of {'+'.join(map(str, blocks))} blocks; expected that of "
            f"{', '.join(_ENCODERS.values())}."
        )
    return encoder


def _structures(outputs: int) -> tuple[Structure, ...]:
    if outputs == 2:
        return (Structure("disc", _COLOURS[0], 1), Structure("cup", _COLOURS[1], 2, "disc"))
    return tuple(Structure(f"structure {n + 1}", _COLOURS[n], n + 1) for n in range(outputs))
