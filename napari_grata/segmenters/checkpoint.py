"""Reading PyTorch checkpoints without running what is in them.

Only tensors and plain Python values come out: ``weights_only=True``, and before that a look at
what the pickle asks for, since even then a file may claim memory of any length.
"""

from __future__ import annotations

import contextlib
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .card import CARD_FILE, WEIGHTS_FILE, ModelError

if TYPE_CHECKING:
    import torch

#: Weights beyond this are no segmenter that fits beside a scan.
LARGEST_FILE = 2 * 2**30
#: A state dict of a thousand tensors is described by some hundred kilobytes.
LARGEST_PICKLE = 16 * 2**20
# So many mappings in one another are looked at.
_MOST_DEEP = 5
_CLAIMS = re.compile(r"\b(bytearray|\w*Tensor|(Unt|T)ypedStorage)$")
_PROGRAM = (
    "{path} holds more than tensors. It is not opened, because such a file can run programs or "
    "fill the memory. Ask for a plain state dict: torch.save(model.state_dict(), …)."
)


class WeightsError(ModelError):
    """Weights that are missing, damaged, not numbers, or do not belong to their card."""


def archive_kind(path: Path) -> str | None:
    """Return what `path` holds by the names in its archive; a glance, without torch.

    Returns
    -------
    {"torchscript", "torch.export", "checkpoint"} or None
        None: no archive of PyTorch, though perhaps a checkpoint of before 2020.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return None
    if "constants.pkl" in names:
        return "torchscript"
    if "models/model.json" in names or "serialized_exported_program.json" in archive.namelist():
        return "torch.export"
    return "checkpoint" if "data.pkl" in names else None


def read_checkpoint(path: Path, allowed: Sequence[Any] = ()) -> Any:
    """Read a ``.pth`` file onto the CPU.

    Parameters
    ----------
    path : Path
    allowed : sequence
        Classes and functions, beyond PyTorch's own list, that the file may ask for.

    Raises
    ------
    WeightsError
        It is no checkpoint, is damaged, or asks for anything else.
    """
    import torch

    if (kind := archive_kind(path)) in ("torchscript", "torch.export"):
        raise WeightsError(
            f"{path} is a program ({kind}) and says nothing of what it reads and finds. Put a "
            f"{CARD_FILE} beside it (napari-grata models NAME prints one to start from), then add "
            "that folder."
        )
    try:
        check_size(path)
        _check_pickle(path)
        with contextlib.ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            # Old archives of PyTorch announce their age; that is no concern of the user's.
            warnings.simplefilter("ignore")
            stack.enter_context(torch.serialization.safe_globals(list(allowed)))
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


def check_size(path: Path, spare: int = 0) -> None:
    """Refuse an archive that unpacks to more than it is: PyTorch does not compress numbers.

    Parameters
    ----------
    path : Path
    spare : int
        Bytes by which it may, for the code of a program, which is compressed.
    """
    size = unpacked = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > min(size + spare, LARGEST_FILE):
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


def state_dict(found: Any, path: Path) -> dict[str, torch.Tensor]:
    """Return the mapping with most tensors, however deep it lies, without ``module.``.

    Parameters
    ----------
    found : object
        What `read_checkpoint` gave.
    path : Path
        For the error's sentence.
    """
    import torch

    best: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    level = [found]
    for _ in range(_MOST_DEEP):
        level = [item for item in level if isinstance(item, Mapping) and id(item) not in seen]
        seen.update(map(id, level))
        for item in level:
            tensors = {str(k): v for k, v in item.items() if isinstance(v, torch.Tensor)}
            best = max(best, tensors, key=len)
        level = [value for item in level for value in item.values()]
    if not best:
        raise WeightsError(f"{path} holds no weights (no mapping of names to tensors).")
    return {re.sub(r"^(module\.)+", "", key): tensor for key, tensor in best.items()}
