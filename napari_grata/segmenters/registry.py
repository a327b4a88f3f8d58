"""Which models there are: bundled, the user's own, and those of a folder in the environment."""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from napari_grata.scans.files import make_folder, rename

from .card import CARD_FILE, Card, ModelError, load_card
from .loaders import loader_for, model_path

ENVIRONMENT_VARIABLE = "NAPARI_GRATA_MODELS"
HOME_VARIABLE = "NAPARI_GRATA_HOME"

Origin = Literal["bundled", "user", "environment"]


@dataclass(frozen=True)
class ModelEntry:
    """One model folder, usable or not.

    Attributes
    ----------
    name, title : str
        From the card; the folder's name where the card cannot be read.
    folder : Path
    origin : {"bundled", "user", "environment"}
    card : Card or None
        None where it cannot be used; `error` then says why.
    error : str or None
    """

    name: str
    title: str
    folder: Path
    origin: Origin
    card: Card | None = None
    error: str | None = None


def bundled_models_dir() -> Path:
    """Folder of the models that ship with the plugin."""
    from importlib.resources import files

    return Path(str(files("napari_grata.models")))


def user_models_dir() -> Path:
    """Folder of the user's own models (not made here).

    Where the platform keeps such data, or below ``NAPARI_GRATA_HOME`` where that is set.
    """
    home = os.environ.get(HOME_VARIABLE, "").strip()
    if home:
        return Path(os.path.expanduser(home)) / "models"
    import platformdirs

    return Path(platformdirs.user_data_path("napari-grata", appauthor=False)) / "models"


def list_models() -> list[ModelEntry]:
    """List all models: bundled, the user's, then those of ``NAPARI_GRATA_MODELS``.

    Cards are read, weights are not. A folder whose card is wrong, whatever it holds, is listed
    with its error beside the others, and so is one whose name an earlier model has: a name never
    silently means another model.
    """
    places: list[tuple[Origin, Path]] = [
        ("bundled", bundled_models_dir()),
        ("user", user_models_dir()),
    ]
    for named in os.environ.get(ENVIRONMENT_VARIABLE, "").split(os.pathsep):
        if named.strip():
            places.append(("environment", Path(os.path.expanduser(named.strip()))))
    entries: list[ModelEntry] = []
    taken: dict[str, Path] = {}
    seen: set[str] = set()
    for origin, place in places:
        for folder in _model_folders(place):
            if os.path.realpath(folder) in seen:
                continue
            seen.add(os.path.realpath(folder))
            entry = _entry(folder, origin)
            if entry.card is not None and entry.name in taken:
                error = (
                    f"There is a model called {entry.name!r} already, in {taken[entry.name]}. "
                    f"Give one of them another name in its {CARD_FILE}."
                )
                entry = ModelEntry(entry.name, entry.title, folder, origin, None, error)
            elif entry.card is not None:
                taken[entry.name] = folder
            entries.append(entry)
    return entries


def find_model(name: str) -> ModelEntry:
    """Return the usable model called `name`.

    Raises
    ------
    ModelError
        There is none; the message lists those that there are, or says what is wrong with it.
    """
    entries = list_models()
    for entry in entries:
        if entry.name == name and entry.card is not None:
            return entry
    for entry in entries:
        if entry.name == name or entry.folder.name == name:
            raise ModelError(f"The model {name!r} cannot be used. {entry.error}")
    known = ", ".join(entry.name for entry in entries if entry.card is not None) or "none"
    raise ModelError(
        f"There is no model called {name!r}. Models here: {known}. A folder with {CARD_FILE}, "
        "or a published .pth file, can be given by its path."
    )


def add_model(path: str | Path) -> ModelEntry:
    """Copy a model into the user's folder, so that it is listed from now on.

    Parameters
    ----------
    path : path
        A folder with ``card.yaml`` and weights (or one of these two files), or a published GraTa
        or VPTTA checkpoint (``.pth``); state dicts are converted to safetensors.

    Raises
    ------
    ModelError
        Nothing is left behind in the user's folder then.
    """
    path = Path(os.path.expanduser(path))
    if not os.path.exists(path):
        raise ModelError(f"There is nothing at {path}.")
    path = model_path(path)
    user = user_models_dir()
    staging = user / f".adding-{secrets.token_hex(4)}"
    try:
        card = loader_for(path).install(path, make_folder(staging))
        return _settle(staging, card, user)
    except OSError as error:
        raise ModelError(f"{path.name} cannot be added to your models: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def remove_model(entry: ModelEntry) -> None:
    """Take a model out of the user's own; any other is left alone."""
    if entry.folder.parent == user_models_dir():
        shutil.rmtree(entry.folder, ignore_errors=True)


def _settle(staging: Path, card: Card, user: Path) -> ModelEntry:
    """Move a complete model folder to its place; the same model twice is no error."""
    for entry in list_models():
        if entry.card is None or entry.name != card.name:
            continue
        if entry.card.weights_sha256 == card.weights_sha256:
            return entry
        raise ModelError(
            f"There is another model called {card.name!r} already, in {entry.folder}. Change "
            f"'name' in the {CARD_FILE} of the one that you are adding, or remove that folder."
        )
    target = user / card.name
    if target.exists():
        raise ModelError(
            f"{target} is in the way: a folder of that name whose model cannot be used. Remove or "
            "mend it, then add the model again."
        )
    rename(staging, target)
    return ModelEntry(card.name, card.title, target, "user", card)


def _model_folders(place: Path) -> list[Path]:
    if os.path.isfile(place / CARD_FILE):
        return [place]
    try:
        inside = sorted(place.iterdir())
    except OSError:
        return []
    return [
        folder
        for folder in inside
        if not folder.name.startswith(".") and os.path.isfile(folder / CARD_FILE)
    ]


def _entry(folder: Path, origin: Origin) -> ModelEntry:
    try:
        card = load_card(folder)
        loader_for(folder)
    except ModelError as error:
        return ModelEntry(folder.name, folder.name, folder, origin, None, str(error))
    return ModelEntry(card.name, card.title, folder, origin, card)
