"""METHODS, the register that dock, command line, benchmark and pages read.

A method is one file of this folder with a class under `@register`. What the decorator says is
read from the text of the files, so that a list of methods loads no torch; the file itself is
imported when its method is first used. The same holds for a module that another package names
under the entry point ``napari_grata.methods``.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar, get_args

Learns = Literal["nothing", "statistics", "theta", "weights", "prompt", "days"]


class Registered(Protocol):
    """What the decorator tells a class."""

    name: ClassVar[str]
    learns: ClassVar[bool]
    adapts: ClassVar[Learns]


ENTRY_POINTS = "napari_grata.methods"
_Kind = TypeVar("_Kind", bound=type[Registered])


@dataclass(frozen=True)
class MethodInfo:
    """What a user is told of a method, and where it lies.

    Attributes
    ----------
    name, title, summary : str
        As settings and command line name it, as a menu does, and in a sentence.
    learns : {"nothing", "statistics", "theta", "weights", "prompt", "days"}
        What a step changes: the statistics of every batch normalisation, scale and shift of every
        normalisation layer, every weight (on batches drawn from the whole stack), nothing of the
        model but how it is shown each slice, or this by day and every weight by night: a pass over
        the slices is a day, and between two of them batches are drawn as for every weight.
    settings_used : tuple of str
        Fields of `Settings` that the method takes, beside those that all take.
    defaults : mapping of str to value
        What its preset sets, where that is not the default of `Settings`.
    module : str
        Dotted name of the module that holds the class.
    package : str
        Name and version of the package that brings it; "" of ours.
    """

    name: str
    title: str
    summary: str
    learns: Learns
    settings_used: tuple[str, ...]
    module: str
    package: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def described(self) -> str:
        """Say which method it is, and whose, for a sentence."""
        return f"method {self.name!r}" + (f" of the package {self.package}" * bool(self.package))

    def load(self) -> type[Any]:
        """Return the class, which is a `Method`.

        Raises
        ------
        ValueError
            If the package that brings it does not bring it after all, or fails.
        """
        try:
            importlib.import_module(self.module)
            return _CLASSES[self.name]
        except Exception as error:
            if not self.package:
                raise
            raise ValueError(
                f"The {self.described} cannot be loaded ({type(error).__name__}: {error}). Mend "
                "the package, or choose another method."
            ) from error


METHODS: dict[str, MethodInfo] = {}
"""Methods by name, those that learn first."""
REFUSED: dict[str, str] = {}
"""Why an entry point brings no method, a sentence each."""
_CLASSES: dict[str, type[Any]] = {}


def register(
    *,
    name: str,
    title: str,
    summary: str,
    learns: Learns,
    settings_used: tuple[str, ...] = (),
    defaults: Mapping[str, Any] | None = None,
) -> Callable[[_Kind], _Kind]:
    """Register the method that a class is; arguments are those of `MethodInfo`.

    In a file of this folder all of them are written out, for they are read without running it.

    Raises
    ------
    ValueError
        If another method has the name.
    """

    def decorate(kind: _Kind) -> _Kind:
        said = (name, title, summary, learns, settings_used, kind.__module__)
        info = MethodInfo(*said, defaults=defaults or {})
        if replace(METHODS.setdefault(name, info), package="") != info:
            raise ValueError(f"There are two methods called {name!r}; give one another name.")
        kind.name, kind.learns = name, learns != "nothing"
        kind.adapts = learns
        _CLASSES[name] = kind
        return kind

    return decorate


def _written_in(path: Path, module: str, package: str = "") -> Iterator[MethodInfo]:
    """Yield what the decorators in a file say."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        for call in node.decorator_list if isinstance(node, ast.ClassDef) else ():
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "register":
                said: dict[str, Any] = {
                    str(one.arg): ast.literal_eval(one.value) for one in call.keywords
                }
                said.setdefault("settings_used", ())
                yield MethodInfo(**said, module=module, package=package)


def _file_of(module: str) -> Path:
    """Find the file of a module; neither it nor the packages round it are imported."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        raise ValueError(f"there is no package {top!r}")
    if not rest and spec.origin is not None:
        return Path(spec.origin)
    for place in spec.submodule_search_locations or ():
        base = Path(place, *rest)
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
    raise ValueError(f"there is no module {module!r}")


def _settings() -> set[str]:
    """Names of all settings; read from the text, for that module needs the list of methods."""
    text = (Path(__file__).parents[1] / "settings.py").read_text(encoding="utf-8")
    return {
        field.target.id
        for node in ast.parse(text).body
        if isinstance(node, ast.ClassDef) and node.name == "Settings"
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }


def _take(point: EntryPoint) -> None:
    """Register what another package offers, or note why not."""
    whose = f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.module
    try:
        found = list(_written_in(_file_of(point.module), point.module, whose))
        if not found:
            raise ValueError("it has no class under @register(...)")
        for info in found:
            known = METHODS.get(info.name)
            if known is not None and known.module != info.module:
                raise ValueError(f"there is a method called {info.name!r} already")
            if info.learns not in get_args(Learns):
                raise ValueError(f"learns is {info.learns!r}, not one of {get_args(Learns)}")
            unknown = {*info.settings_used, *info.defaults} - _settings()
            if unknown:
                raise ValueError(f"there is no setting {', '.join(sorted(unknown))}")
        METHODS.update((info.name, info) for info in found)
    except Exception as error:
        REFUSED[f"{whose}: {point.name}"] = (
            f"The method {point.name!r} of the package {whose} is left out: {error}."
        )


METHODS.update(
    (info.name, info)
    for info in sorted(
        (
            info
            for path in Path(__file__).parent.glob("*.py")
            for info in _written_in(path, f"{__package__}.{path.stem}")
        ),
        key=lambda info: (info.learns == "nothing", info.name),
    )
)
for _package in distributions():
    try:
        _points = sorted(_package.entry_points.select(group=ENTRY_POINTS))
    except Exception as error:  # one damaged package must not take down the rest
        REFUSED[str(_package)] = (
            f"What the package {_package.name} offers cannot be read ({error})."
        )
        continue
    for _point in _points:
        _take(_point)
