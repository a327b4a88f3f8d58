"""Networks that are programs: TorchScript and torch.export, beside a card.

Such a file holds the network itself, so no Python code of it is needed. It predicts as it is. It
adapts where scale and shift of its normalisation layers can be told by their names and autograd
reaches them; what its layers compute with them is fixed, so statistics stay those of the training.
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .card import CARD_FILE, Card, CardError, load_card
from .checkpoint import WeightsError, archive_kind, check_size
from .factory import check_answer, windowed
from .loaders import (
    LoadedModel,
    Loader,
    check_finite,
    register_loader,
    weights_beside_card,
    with_digest,
)

if TYPE_CHECKING:
    from .program import Program

# What a TorchScript program may not call: files, and operators that others have added.
_FORBIDDEN = re.compile(
    rb"\b(torch\.(?:save|load|from_file)|ops\.(?!aten\.|prim\.|quantized\.)[\w.]+|\w*from_file)\("
)
#: The code of a network with thousands of layers has a few megabytes.
MOST_CODE = 64 * 2**20


class _Exported(Loader):
    """A folder with a card and one program; the program is copied as it is."""

    file_name: ClassVar[str]

    def takes(self, path: Path) -> bool:
        file = weights_beside_card(path)
        return file is not None and archive_kind(file) == self.kind

    def load(self, path: Path) -> LoadedModel:
        file = weights_beside_card(path)
        assert file is not None
        return self.read_program(load_card(path), file)

    def read_program(self, card: Card, file: Path) -> LoadedModel:
        """Return the model of a card and a program."""
        check_size(file, spare=MOST_CODE)
        import torch

        card, content = with_digest(card, file)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                network = self._open(content, card, file)
        except (WeightsError, CardError):
            raise
        except Exception as error:  # of PyTorch's parsers, whatever they meet
            raise WeightsError(
                f"{file} is no {self.kind} program that this PyTorch ({torch.__version__}) reads: "
                f"{str(error)[:300]}. It may be damaged, or of another version: export it again."
            ) from error
        state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        check_finite(state, str(file))
        whole = windowed(card, network)
        check_answer(card, whole)
        told = (_what_adapts(network, self.kind),)
        return LoadedModel(card, whole, told, (self.file_name, content))

    def _open(self, content: bytes, card: Card, file: Path) -> Program:
        raise NotImplementedError


def _what_adapts(network: Program, kind: str) -> str:
    count = len(network._layers)
    if not count:
        return (
            f"This model is a program ({kind}) in which no normalisation layer with scale and "
            "shift can be told: it predicts, and cannot adapt. (torch.jit.freeze takes them away.)"
        )
    return (
        f"This model is a program ({kind}): scale and shift of its {count} normalisation layers "
        "adapt. Its statistics cannot: they stay those of its training, whatever a method says."
    )


@register_loader
class TorchScriptFolder(_Exported):
    """``card.yaml`` and a file of ``torch.jit.save``, scripted or traced.

    Its code is looked at before: it may not touch files or call operators of others.
    """

    kind = "torchscript"
    file_name = "network.pt"

    def _open(self, content: bytes, card: Card, file: Path) -> Program:
        import torch

        from .program import Program

        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                found = _FORBIDDEN.search(archive.read(name)) if name.endswith(".py") else None
                if found:
                    raise WeightsError(
                        f"{file} calls {found[1].decode()!r}, which is no computation of a "
                        "network. It is not opened."
                    )
        program = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()
        layers = {}
        for path, module in program.named_modules():
            names = tuple(name for name, _ in module.named_parameters(recurse=False))
            if path and names and "norm" in module.original_name.lower():
                layers[path] = names
        return Program(program, layers, single=False)


@register_loader
class ExportFolder(_Exported):
    """``card.yaml`` and a file of ``torch.export.save`` (``.pt2``, PyTorch 2.8 or later).

    Loading one may unpickle objects; archives that hold any are refused.
    """

    kind = "torch.export"
    file_name = "network.pt2"

    def _open(self, content: bytes, card: Card, file: Path) -> Program:
        import torch

        from .program import Program

        _check_archive(content, file)
        exported = torch.export.load(io.BytesIO(content))
        program = exported.module()
        single = _check_shape(program, card, file)
        names = {name for name, _ in program.named_parameters()}
        layers: dict[str, tuple[str, ...]] = {}
        for node in program.graph.nodes:
            if node.op == "call_function" and "norm" in str(node.target):
                for given in node.args:
                    target = str(getattr(given, "target", ""))
                    path, _, name = target.rpartition(".")
                    if target in names and path and name not in layers.get(path, ()):
                        layers[path] = (*layers.get(path, ()), name)
        return Program(program, layers, single)


def _check_archive(content: bytes, file: Path) -> None:
    """Refuse an archive whose loading would unpickle more than tensors."""
    import torch

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        if "models/model.json" not in names:
            raise WeightsError(
                f"{file} was exported by a PyTorch before 2.8; export it again with a later one."
            )
        pickled = any("/custom_obj" in name or "/opaque_obj" in name for name in names)
        for inner, name in names.items():
            if inner.endswith("_config.json"):
                entries = json.loads(archive.read(name)).get("config", {}).values()
                pickled = pickled or any(entry.get("use_pickle", True) for entry in entries)
            elif inner.startswith("data/sample_inputs/"):
                try:
                    torch.load(io.BytesIO(archive.read(name)), weights_only=True)
                except Exception:  # whatever the parsers meet: then it is not loaded
                    pickled = True
    if pickled:
        raise WeightsError(
            f"{file} holds objects that are no tensors. It is not opened, because such a file can "
            "run programs."
        )


def _check_shape(program: Any, card: Card, file: Path) -> bool:
    """Compare the shape that a program is bound to with the card; return whether batches are 1."""
    (shape,) = [
        tuple(node.meta["val"].shape) for node in program.graph.nodes if node.op == "placeholder"
    ]
    fixed = [size if isinstance(size, int) else None for size in shape]
    if len(fixed) != 4 or fixed[0] not in (None, 1):
        raise WeightsError(
            f"{file} was exported for an input of {'×'.join(map(str, shape))}; expected batches of "
            "one picture or of any number, 1 × channels × rows × columns."
        )
    for size, wanted in zip(fixed[2:], card.size or (None, None), strict=True):
        if size is not None and size != wanted:
            raise CardError(
                f"{file} was exported for pictures of {fixed[2]} × {fixed[3]} pixels alone. Say "
                f"'size: [{fixed[2]}, {fixed[3]}]' in {CARD_FILE} (multiples of 32), or export it "
                "with dynamic_shapes."
            )
    return fixed[0] == 1
