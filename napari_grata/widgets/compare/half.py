"""Shows only the left or the right part of a layer, without touching its data."""

from __future__ import annotations

from typing import Any

from vispy.visuals.filters import Filter

from napari_grata.widgets.compare.errors import CompareError

LEFT, RIGHT = -1.0, 1.0

# gl_FragCoord counts device pixels from the left edge of the canvas, whatever the zoom.
_SHADER = """
void keep_one_side() {
    if ($side * (gl_FragCoord.x - $line) < 0.0) discard;
}
"""


class Half(Filter):
    """Cuts a layer's drawing off at an upright line of the canvas.

    Parameters
    ----------
    viewer : Viewer
    layer : Layer
    side : {LEFT, RIGHT}
        Which part stays.

    Raises
    ------
    CompareError
        If what napari draws the layer with cannot be found.
    """

    def __init__(self, viewer: Any, layer: Any, side: float) -> None:
        super().__init__(fcode=_SHADER, fhook="pre", fpos=0)
        self.fshader["side"] = side
        self.fshader["line"] = 0.0
        try:
            # napari has no public way to a layer's visual; this one is the same from 0.5 to 0.9.
            self._node = viewer.window._qt_viewer.canvas.layer_to_visual[layer].node
            self._node.attach(self)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CompareError(
                "The curtain does not work with this version of napari; use “Contours” or "
                "“Side by side” instead."
            ) from error

    def set_line(self, x: float) -> None:
        """Put the line at this distance from the canvas's left edge, in device pixels."""
        self.fshader["line"] = float(x)
        self._node.update()

    def take_off(self) -> None:
        """Show all of the layer again."""
        if self.attached:
            self._node.detach(self)
            self._node.update()
