"""METHODS, the register that dock, command line, benchmark and pages read.

A method is one file of this folder with a class under `@register`. What the decorator says is
read from the text of the files, so that a list of methods loads no torch; the file itself is
imported when its method is first used.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar

Learns = Literal["nothing", "theta", "weights"]


class Registered(Protocol):
    """What the decorator tells a class."""

    name: ClassVar[str]
    learns: ClassVar[bool]
    all_weights: ClassVar[bool]


_Kind = TypeVar("_Kind", bound=type[Registered])


@dataclass(frozen=True)
class MethodInfo:
    """What a user is told of a method, and where it lies.

    Attributes
    ----------
    name, title, summary : str
        As settings and command line name it, as a menu does, and in a sentence.
    learns : {"nothing", "theta", "weights"}
        What a step changes: scale and shift of every normalisation layer, or every weight. A
        method that changes all weights takes its steps on batches drawn from the whole stack.
    settings_used : tuple of str
        Fields of `Settings` that the method takes, beside those that all take.
    module : str
        Dotted name of the module that holds the class.
    """

    name: str
    title: str
    summary: str
    learns: Learns
    settings_used: tuple[str, ...]
    module: str

    def load(self) -> type[Any]:
        """Return the class, which is a `Method`."""
        importlib.import_module(self.module)
        return _CLASSES[self.name]


METHODS: dict[str, MethodInfo] = {}
"""Methods by name, those that learn first."""
_CLASSES: dict[str, type[Any]] = {}


def register(
    *, name: str, title: str, summary: str, learns: Learns, settings_used: tuple[str, ...] = ()
) -> Callable[[_Kind], _Kind]:
    """Register the method that a class is; arguments are those of `MethodInfo`.

    In a file of this folder all of them are written out, for they are read without running it.

    Raises
    ------
    ValueError
        If another method has the name.
    """

    def decorate(kind: _Kind) -> _Kind:
        info = MethodInfo(name, title, summary, learns, settings_used, kind.__module__)
        if METHODS.setdefault(name, info) != info:
            raise ValueError(f"There are two methods called {name!r}; give one another name.")
        kind.name, kind.learns = name, learns != "nothing"
        kind.all_weights = learns == "weights"
        _CLASSES[name] = kind
        return kind

    return decorate


def _written_in(path: Path) -> Iterator[MethodInfo]:
    """Yield what the decorators in a file say."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        for call in node.decorator_list if isinstance(node, ast.ClassDef) else ():
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "register":
                said: dict[str, Any] = {
                    str(one.arg): ast.literal_eval(one.value) for one in call.keywords
                }
                said.setdefault("settings_used", ())
                yield MethodInfo(**said, module=f"{__package__}.{path.stem}")


METHODS.update(
    (info.name, info)
    for info in sorted(
        (info for path in Path(__file__).parent.glob("*.py") for info in _written_in(path)),
        key=lambda info: (info.learns == "nothing", info.name),
    )
)
