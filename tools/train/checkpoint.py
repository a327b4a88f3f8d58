"""State of an unfinished training on disk: tensors in safetensors, the rest in JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from napari_grata.scans.files import make_folder, read_json, write_bytes, write_json

from .data import TrainingError

TENSORS = "training.safetensors"
FACTS = "training.json"


def _optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimiser.state_dict()["state"]
    return {
        f"optimiser.{index}.{key}": torch.as_tensor(value)
        for index, entry in state.items()
        for key, value in entry.items()
    }


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    average: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    facts: dict[str, Any],
) -> None:
    """Write both files, each whole; the tensors carry the epoch too, so that a crash in between
    is noticed."""
    tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.items()}
    tensors |= _optimiser_tensors(optimiser)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    make_folder(folder)
    write_bytes(folder / TENSORS, save(tensors, metadata={"epoch": str(facts["epoch"])}))
    write_json(folder / FACTS, facts)


def load_checkpoint(
    folder: Path,
    network: nn.Module,
    average: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    expected: dict[str, Any],
) -> int:
    """Put a checkpoint back into its objects.

    Parameters
    ----------
    folder : Path
    network, average, optimiser
        Filled in place.
    expected : dict
        Facts that must be those of the checkpoint, such as recipe and seed.

    Returns
    -------
    int
        Number of epochs that are done.

    Raises
    ------
    TrainingError
        No checkpoint, a damaged one, or one of another training.
    """
    try:
        facts = read_json(folder / FACTS)
        tensors = load_file(folder / TENSORS)
    except FileNotFoundError:
        raise TrainingError(
            f"There is nothing to resume in {folder}. Start without --resume."
        ) from None
    except (OSError, ValueError, SafetensorError) as error:
        raise TrainingError(
            f"The checkpoint in {folder} is damaged ({error}). Start without --resume."
        ) from error
    for key, value in expected.items():
        if facts.get(key) != value:
            raise TrainingError(
                f"The checkpoint in {folder} is of a training with {key} = {facts.get(key)!r}, "
                f"not {value!r}. Resume with that, or write to another folder."
            )
    try:
        network.load_state_dict(_part(tensors, "network."))
        for key, value in _part(tensors, "average.").items():
            average[key].copy_(value)
        _fill_optimiser(optimiser, _part(tensors, "optimiser."))
    except (KeyError, RuntimeError, ValueError) as error:
        raise TrainingError(
            f"The checkpoint in {folder} does not fit this network ({error}). "
            "Start without --resume."
        ) from error
    return int(facts["epoch"])


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _fill_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
