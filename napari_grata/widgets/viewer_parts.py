"""Parts of a napari viewer, wherever its version keeps them (0.9 moved several)."""

from __future__ import annotations

from typing import Any


def camera_of(viewer: Any) -> Any:
    """Return the camera."""
    return getattr(viewer, "scene", viewer).camera


def grid_of(viewer: Any) -> Any:
    """Return the grid of layers."""
    return getattr(viewer, "canvas", viewer).grid
