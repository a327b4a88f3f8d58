"""The file of a list: which files are its cases, in which order, under which codes."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from napari_grata.scans.files import read_json, write_json

from .appending import read
from .casefinding import ListError, bare_name, find_sources, is_scan_file
from .cases import Case

LIST_FILE = "list.json"
OPTIONS_FILE = "options.json"
DECISIONS_FILE = "decisions.jsonl"
FORMAT = 1
_NOTE = "This file may identify patients. Delete it before you share the folder."


def lists_dir() -> Path:
    """Folder of the user's lists (not made here)."""
    from napari_grata.segmenters.registry import user_models_dir

    return user_models_dir().parent / "lists"


@dataclass(frozen=True)
class RecentList:
    """A list that was worked on before.

    Attributes
    ----------
    folder : Path
    title : str
        Name of the folder or file the cases came from; for the screen alone.
    when : str
        UTC, ISO 8601, of the last work on it.
    cases, decided : int
    """

    folder: Path
    title: str
    when: str
    cases: int
    decided: int


def all_sources(roots: Sequence[Path]) -> Iterator[Path]:
    seen = set()
    for root in roots:
        if root.is_dir():
            found = find_sources(root)
        elif not root.exists():
            raise ListError(f"There is no file or folder called {root.name}. Check its name.")
        elif not is_scan_file(root):
            raise ListError(
                f"{root.name} is no scan that can be read (.nii, .nii.gz, .png, .jpg, .tif)."
            )
        else:
            found = [root]
        for path in found:
            if path not in seen:
                seen.add(path)
                yield path


def identity_of(roots: Sequence[Path]) -> str:
    names = sorted(os.path.normcase(os.path.realpath(root)) for root in roots)
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogatepass")).hexdigest()


def numbered(sources: Sequence[tuple[Path, ...]], first: int, roots: Sequence[Path]) -> list[Case]:
    names = Counter(bare_name(paths[0]) for paths in sources if paths)
    cases = []
    for number, paths in enumerate(sources, start=first):
        title = bare_name(paths[0]) if paths else "scan"
        if len(paths) > 1:
            title = f"{title} and {len(paths) - 1} more"
        elif names[title] > 1:
            title = _longer_title(paths[0], roots)
        cases.append(Case(f"case-{number:04d}", number, tuple(paths), title))
    return cases


def _longer_title(path: Path, roots: Sequence[Path]) -> str:
    """Centres side by side hold files of the same names."""
    for root in roots:
        with contextlib.suppress(ValueError):
            inner = path.relative_to(root).parent / bare_name(path)
            return inner.as_posix()
    return f"{path.parent.name}/{bare_name(path)}"


def write_list(folder: Path, identity: str, roots: Sequence[Path], cases: Sequence[Case]) -> None:
    write_json(
        folder / LIST_FILE,
        {
            "note": _NOTE,
            "format": FORMAT,
            "identity": identity,
            "roots": [str(root) for root in roots],
            "cases": [
                {
                    "key": case.key,
                    "number": case.number,
                    "sources": [str(path) for path in case.sources],
                    "title": case.title,
                }
                for case in cases
            ],
        },
    )


def read_list(folder: Path) -> dict[str, Any]:
    path = folder / LIST_FILE
    try:
        values = read_json(path)
        if values["format"] != FORMAT:
            raise ListError(f"{path.name} in {folder.name} is of a later version of this program.")
        for name in ("roots", "identity", "cases"):
            values[name]
        return values
    except FileNotFoundError:
        raise ListError(f"{folder.name} is no list of cases: it has no {path.name}.") from None
    except ListError:
        raise
    except OSError as error:
        raise ListError(f"{folder.name}/{path.name} cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError) as error:
        raise ListError(
            f"{folder.name}/{path.name} is damaged. Open the folder of the scans again; decisions "
            "and masks are kept in the list's folder."
        ) from error


def read_case(entry: Mapping[str, Any]) -> Case:
    return Case(
        str(entry["key"]),
        int(entry["number"]),
        tuple(Path(path) for path in entry["sources"]),
        str(entry["title"]),
    )


def title_of(roots: Sequence[Path], cases: Sequence[Case]) -> str:
    if len(roots) == 1:
        return bare_name(roots[0])
    return cases[0].title + (f" and {len(cases) - 1} more" if len(cases) > 1 else "")


def recent_list(folder: Path) -> RecentList:
    values = read_list(folder)
    cases = [read_case(entry) for entry in values["cases"]]
    in_force: dict[int, str] = {}
    everything: dict[int, str] = {}
    for line in read(folder / DECISIONS_FILE).lines:
        number = int(line.get("of", line.get("number", 0)))
        if line.get("action") == "decide" and line.get("slice_index") is None:
            everything[number] = in_force[number] = line.get("case", "")
        elif line.get("action") == "undo":
            in_force.pop(number, None)
        elif line.get("action") == "redo" and number in everything:
            in_force[number] = everything[number]
    files = [folder / name for name in (LIST_FILE, OPTIONS_FILE, DECISIONS_FILE)]
    latest = max(path.stat().st_mtime for path in files if path.exists())
    return RecentList(
        folder=folder,
        title=title_of([Path(root) for root in values["roots"]], cases),
        when=datetime.fromtimestamp(latest, timezone.utc).isoformat(timespec="seconds"),
        cases=len(cases),
        decided=len(set(in_force.values())),
    )
