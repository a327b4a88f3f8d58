"""What runs here, how fast, and what stands in the way: ``napari-grata doctor``.

Importing this loads neither torch nor Qt. Nothing is sent anywhere, and no scan is looked at.
"""

from __future__ import annotations

import copy
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

    from napari_grata.adaptation.methods import Method
    from napari_grata.segmenters import Card

GOOD, NOTE, PROBLEM = "good", "note", "problem"
VOLUME_SLICES = 160
_PACKAGES = ("torch", "numpy", "napari", "nibabel", "scikit-image", "safetensors")
_BINDINGS = ("PyQt6", "PyQt5", "PySide6", "PySide6-Essentials")
_SPEED_SECONDS = 5.0
_ROOM = 200_000_000  # bytes of free disk that a few runs need
_SIDE = 192  # of a slice whose model asks for no size


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes
    ----------
    about : str
        Heading it belongs to.
    level : {"good", "note", "problem"}
        A problem stops some of the work and makes the exit code 1.
    text : str
    advice : str
        What to do about it, if anything.
    """

    about: str
    level: str
    text: str
    advice: str = ""


Line = tuple[str, ...]
"""Level, text, and what to do about it, if anything."""


def examine(*, speed: bool = True) -> Iterator[Finding]:
    """Yield findings one after the other; ``speed`` computes for about five seconds."""
    for about, check in (("Programs", versions), ("Window", window), ("Folders", folders)):
        yield from (Finding(about, *line) for line in check())
    if _version("torch") is None:
        return  # said under programs; all that follows needs it
    try:
        import torch  # noqa: F401
    except (ImportError, OSError) as error:
        advice = "Install PyTorch again: pip install --force-reinstall torch"
        yield Finding("Computing", PROBLEM, f"PyTorch does not load: {error}", advice)
        return
    for about, check in (("Computing", devices), ("Models", models), ("Methods", methods)):
        yield from (Finding(about, *line) for line in check())
    if speed:
        about = "Speed (preset Careful, a made-up picture)"
        yield from (Finding(about, *line) for line in speeds())


def versions() -> Iterator[Line]:
    """Which programs are there."""
    from napari_grata import __version__

    system = f"{platform.system()} {platform.release()} on {platform.machine()}"
    yield GOOD, f"napari-grata {__version__}, Python {platform.python_version()}, {system}"
    there = {name: _version(name) for name in _PACKAGES}
    lines = ", ".join(f"{name} {version}" for name, version in there.items() if version)
    yield GOOD, lines
    for name, version in there.items():
        if version is None:
            level = NOTE if name == "napari" else PROBLEM
            why = "the window does not open" if name == "napari" else "models do not run"
            yield level, f"{name} is missing: {why}.", f"pip install {name}"


def methods() -> Iterator[Line]:
    """Whether methods of other packages are taken."""
    from napari_grata.adaptation.methods.register import METHODS, REFUSED

    for info in METHODS.values():
        if info.package:
            yield GOOD, f"{info.name}, of the package {info.package}"
    for words in REFUSED.values():
        yield NOTE, words, "Mend or remove that package."


def window() -> Iterator[Line]:
    """Whether a window can open."""
    from napari_grata.demo import has_screen

    versions = {name.split("-")[0]: _version(name) for name in reversed(_BINDINGS)}
    there = [f"{name} {version}" for name, version in versions.items() if version]
    chosen = os.environ.get("QT_API", "")
    if not there:
        advice = 'For the window: pip install "napari-grata[pyqt6]"'
        yield NOTE, "No Qt binding: the command line works alone.", advice
        return
    text = f"Qt through {', '.join(there)}" + (f"; QT_API asks for {chosen}" if chosen else "")
    yield GOOD, text + "."
    named = [one.split()[0].lower() for one in there]
    if chosen and chosen.lower() not in named:
        advice = f"Unset QT_API, or pip install {chosen}."
        yield NOTE, f"QT_API asks for {chosen}, which is not installed.", advice
    if not has_screen():
        yield NOTE, "No screen here: the command line works, the window does not."


def folders() -> Iterator[Line]:
    """Whether what we keep can be written."""
    from napari_grata.segmenters.registry import user_models_dir

    places = {
        "your models and lists": user_models_dir().parent,
        "temporary files": Path(tempfile.gettempdir()),
        "this folder": Path.cwd(),
    }
    for words, place in places.items():
        shown = _short(place)
        # A folder that is not there yet is made when it is needed.
        there = next((one for one in (place, *place.parents) if one.exists()), place)
        try:
            with tempfile.NamedTemporaryFile(dir=there, prefix=".napari-grata-"):
                pass
            free = shutil.disk_usage(there).free
        except OSError as error:
            level = NOTE if words == "this folder" else PROBLEM
            advice = "Choose another folder with --out, or set NAPARI_GRATA_HOME to one of yours."
            reason = error.strerror or type(error).__name__
            yield level, f"{words}: {shown} cannot be written ({reason}).", advice
            continue
        level = GOOD if free > _ROOM else NOTE
        yield level, f"{words}: {shown}, {free / 1e9:.1f} GB free"


def devices() -> Iterator[Line]:
    """Where networks run, in what number formats, and why there."""
    import torch

    from napari_grata.segmenters.devices import list_devices, processor_units

    automatic, *choices = list_devices()
    reason = "the graphics card with most free memory" if len(choices) > 1 else "nothing else here"
    yield GOOD, f"{automatic.title} — {reason}."
    for choice in choices:
        formats = "float32" + (", bfloat16" if choice.bfloat16 else "")
        yield GOOD, f"{choice.key}: {choice.title}; computes in {formats}"
    units = [name for name, there in processor_units().items() if there]
    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    fast = torch.backends.mkldnn.is_available()
    text = f"Processor: {cores} cores, {threads} used; units for bfloat16: "
    yield GOOD, text + (", ".join(units) or "none")
    if threads < cores:
        held = "OMP_NUM_THREADS" if "OMP_NUM_THREADS" in os.environ else "a setting of PyTorch"
        yield NOTE, f"Only {threads} of {cores} cores work, because of {held}."
    if not fast:
        advice = "Install PyTorch from pytorch.org or conda-forge instead of this build."
        yield NOTE, "This PyTorch lacks oneDNN: convolutions are slow.", advice
    if units:
        yield (
            NOTE,
            "bfloat16 is an option here: faster the larger the model; masks differ a little.",
            "Advanced → Faster, coarser numbers, or --precision bfloat16 (docs/performance.md).",
        )
    if len(choices) == 1 and shutil.which("nvidia-smi"):
        advice = "Install the CUDA build: see pytorch.org → Get Started."
        yield NOTE, "There is an NVIDIA driver, but this PyTorch cannot use it.", advice
    elif len(choices) == 1:
        advice = "An NVIDIA graphics card needs the CUDA build of PyTorch: see pytorch.org."
        yield NOTE, "No graphics card that PyTorch can use.", advice


def models() -> Iterator[Line]:
    """Which models are there, and whether they load."""
    from napari_grata.segmenters import list_devices, list_models, load_segmenter

    free = list_devices()[0].free_bytes
    entries = list_models()
    if not entries:
        yield PROBLEM, "No models at all.", "Install napari-grata again."
    for entry in entries:
        if entry.card is None:
            advice = "Mend its card.yaml, or remove the folder."
            yield NOTE, f"{entry.name}: {entry.error}", advice
            continue
        try:
            network = load_segmenter(entry.folder, device="cpu").network
            needed = memory_of_a_step(network, entry.card)
        except (ValueError, OSError, RuntimeError) as error:
            yield PROBLEM, f"{entry.name} does not load: {error}"
            continue
        parameters = sum(one.numel() for one in network.parameters())
        text = f"{entry.name}: {entry.title}, {parameters / 1e6:.1f} million parameters"
        text += f" ({entry.origin}), about {needed / 1e6:.0f} MB for a step"
        if free is not None and needed > free:
            advice = "Close other programs, draw a region, or choose another device."
            yield NOTE, f"{text}: more than is free now.", advice
        else:
            yield GOOD, text


def speeds() -> Iterator[Line]:
    """How long a photograph and a volume take, on every device."""
    from napari_grata.segmenters import list_devices, list_models

    keys = [choice.key for choice in list_devices()[1:]]
    cards = {e.name: e.card for e in list_models() if e.card and e.origin == "bundled"}
    turns = [(key, name) for key in keys for name in cards]
    for key, name in turns:
        volume = cards[name].dimensions == 3
        try:
            for precision, size, seconds in _measure(name, key, _SPEED_SECONDS / len(turns)):
                sides = "×".join(str(side) for side in size)
                text = f"{name}, {key}, {precision}: {seconds:.2f} s a slice of {sides}"
                if volume:
                    whole = _duration(VOLUME_SLICES * seconds)
                    text += f", about {whole} for {VOLUME_SLICES} slices"
                yield GOOD, text
        except (RuntimeError, MemoryError, ValueError) as error:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            advice = "Choose another device, or close other programs."
            yield PROBLEM, f"{name} fails on {key}: {first}", advice


def memory_of_a_step(network: nn.Module, card: Card) -> int:
    """Return about how many bytes a step on one slice takes, the weights aside.

    Nothing is computed: shapes alone go through a copy of the network. What a normalisation reads
    and what comes out of it is kept for the gradient.
    """
    import torch
    from torch import nn

    shadow = copy.deepcopy(network).to("meta")
    total = 0

    def count(_module: nn.Module, given: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
        nonlocal total
        total += given[0].nbytes + result.nbytes

    for module in shadow.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_hook(count)
    with torch.no_grad():
        shadow(torch.empty(1, card.channels, *_slice_size(card), device="meta"))
    return total


def _measure(
    model: str, device: str, seconds: float
) -> Iterator[tuple[str, tuple[int, int], float]]:
    """Yield (precision, slice size, seconds a slice) for every precision that a device has.

    A slice is segmented, a step is taken on it, and it is predicted in the end.
    """
    import torch

    from napari_grata.adaptation.methods import make_method
    from napari_grata.adaptation.settings import PRESETS
    from napari_grata.segmenters import load_segmenter
    from napari_grata.segmenters.devices import has_bfloat16

    segmenter = load_segmenter(model, device=device)
    card, size = segmenter.card, _slice_size(segmenter.card)
    picture = torch.rand(1, card.channels, *size, generator=torch.Generator().manual_seed(0))
    picture = picture.to(segmenter.device)
    precisions = ["float32", *(["bfloat16"] if has_bfloat16(segmenter.device) else [])]
    for precision in precisions:
        settings = PRESETS["careful"].settings.but(precision=precision)
        method = make_method(settings, segmenter.network, card.activation)

        def work(method: Method = method) -> None:
            with torch.inference_mode():
                segmenter.probabilities(segmenter.network(picture)).sum().item()
            method.step(picture)
            method.predict(picture).probabilities.sum().item()

        end = time.perf_counter() + seconds / len(precisions)
        work()  # the first time is slower: kernels are chosen, memory is fetched
        best = _seconds(work)
        while time.perf_counter() + best < end:
            best = min(best, _seconds(work))
        yield precision, size, best


def _seconds(work: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _slice_size(card: Card) -> tuple[int, int]:
    """Return (height, width) of a slice as the network reads it; 192 where it reads any."""
    height, width = card.size or (_SIDE, _SIDE)
    return height + -height % 32, width + -width % 32


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _short(path: Path) -> str:
    """The path without the name of the person."""
    try:
        return str(Path("~") / path.relative_to(Path.home()))
    except (ValueError, RuntimeError):
        return str(path)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
