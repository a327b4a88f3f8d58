"""Where networks can run here, how much memory is free there, and how they lie in it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


class DeviceError(ValueError):
    """A device that this machine does not have; the message lists those that it has."""


@dataclass(frozen=True)
class DeviceChoice:
    """One line of the device menu.

    Attributes
    ----------
    key : str
        ``"auto"``, ``"cuda:0"``, ``"mps"`` or ``"cpu"``.
    title : str
        Such as ``"GPU 0 (NVIDIA A30), 22.1 GB free"``.
    free_bytes : int or None
        Free memory, None where it cannot be told.
    bfloat16 : bool
        Whether it computes in bfloat16 by itself; see `has_bfloat16`.
    """

    key: str
    title: str
    free_bytes: int | None = None
    bfloat16: bool = False


def list_devices() -> list[DeviceChoice]:
    """List ``auto`` first, then graphics cards, then the processor. Loads torch."""
    free = free_bytes("cpu")
    title = "CPU" if free is None else f"CPU, {size_words(free)} free"
    choices = [
        replace(choice, bfloat16=has_bfloat16(choice.key))
        for choice in (*_graphics(), DeviceChoice("cpu", title, free))
    ]
    chosen = str(resolve_device("auto"))
    best = next((choice for choice in choices if choice.key == chosen), choices[-1])
    return [replace(best, key="auto", title=f"Automatic: {best.title}"), *choices]


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return the torch device for a key.

    Parameters
    ----------
    device : str or torch.device
        ``"auto"`` takes the graphics card with most free memory, else ``mps``, else ``cpu``.

    Raises
    ------
    DeviceError
        This machine does not have it.
    """
    import torch

    key = str(device).strip().lower()
    if key == "cpu":
        return torch.device("cpu")
    there = _graphics()
    if key == "auto":
        if not there:
            return torch.device("cpu")
        return torch.device(max(there, key=lambda choice: choice.free_bytes or 0).key)
    if key == "cuda":
        key = "cuda:0"
    if any(choice.key == key for choice in there):
        return torch.device(key)
    keys = ", ".join(["auto", *(choice.key for choice in there), "cpu"])
    raise DeviceError(f"This machine has no device {str(device)!r}. Choose one of: {keys}.")


def has_bfloat16(device: str | torch.device) -> bool:
    """Whether a device computes in bfloat16 by itself, and so faster than in float32."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        # Ampere and later; earlier cards only pretend to.
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return kind == "cpu" and any(processor_units().values())


def processor_units() -> dict[str, bool]:
    """Return which units for bfloat16 the processor has, by name, as PyTorch sees them."""
    import torch

    units = {}
    for name, question in (
        ("AMX", "_is_amx_tile_supported"),
        ("AVX-512 bfloat16", "_is_avx512_bf16_supported"),
    ):
        ask = getattr(torch.cpu, question, None)
        try:
            units[name] = bool(ask is not None and ask())
        except RuntimeError:
            units[name] = False
    return units


def spare_a_core() -> int:
    """Let torch compute on all processors but one; returns on how many it did before.

    That one is the interface's and other programs'. Threads wait for each other after every
    layer: where one of two shares its processor with another program, both of them together
    take longer than one alone.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, (os.cpu_count() or 2) - 1)))
    return before


def lay_out(network: nn.Module, device: torch.device) -> torch.memory_format:
    """Bring ``network`` into the layout in which it runs fastest on ``device``, in place.

    On a CPU, convolutions take half the time with the channels of a pixel together; numbers
    change by rounding only. Elsewhere nothing was measured, so nothing is changed. Weights that
    lie so already keep their storage, so that copies go on sharing it. Returns the layout.

    Notes
    -----
    Networks with group normalisation keep the usual layout: PyTorch's backward pass of it (seen
    in 2.13) reads beyond its memory in the other one and ends the program. So do networks of
    volumes, for which the other one does not exist.
    """
    import torch
    from torch import nn

    usual = (
        device.type != "cpu"
        or any(parameter.ndim == 5 for parameter in network.parameters())
        or any(isinstance(module, nn.GroupNorm) for module in network.modules())
    )
    layout = torch.contiguous_format if usual else torch.channels_last
    # The usual one too: weights that come from a CPU would bring theirs along.
    network.to(memory_format=layout)  # type: ignore[call-overload]
    return layout


def free_bytes(device: str | torch.device) -> int | None:
    """Free memory of a device; None where it cannot be told."""
    import torch

    kind = torch.device(device).type
    try:
        if kind == "cuda":
            return int(torch.cuda.mem_get_info(device)[0])
        if kind == "cpu":
            import psutil

            return int(psutil.virtual_memory().available)
    except (ImportError, OSError, RuntimeError):
        # A card that the driver lists, but that is taken by someone, or has fallen out.
        pass
    return None


def _graphics() -> list[DeviceChoice]:
    import torch

    choices = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        key = f"cuda:{index}"
        free = free_bytes(key)
        if free is not None:
            title = f"GPU {index} ({torch.cuda.get_device_name(index)}), {size_words(free)} free"
            choices.append(DeviceChoice(key, title, free))
    if torch.backends.mps.is_available():
        choices.append(DeviceChoice("mps", "GPU (Apple)", None))
    return choices


def size_words(n_bytes: float) -> str:
    """Say an amount of memory: ``"22.1 GB"``."""
    return f"{n_bytes / 1e9:.1f} GB"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a device's or the machine's memory ran out."""
    import torch

    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    text = str(error).lower()
    said = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
    return any(words in text for words in said)
