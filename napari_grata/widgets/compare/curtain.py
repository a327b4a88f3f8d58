"""A curtain in the canvas: left of a line the mask before, right of it the mask after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QPointF, QRectF, Qt, Signal
from qtpy.QtGui import QColor, QPainter, QPen
from qtpy.QtWidgets import QWidget

from napari_grata.widgets.compare.drawing import draw_caption, draw_line
from napari_grata.widgets.compare.errors import CompareError
from napari_grata.widgets.compare.half import LEFT, RIGHT, Half

if TYPE_CHECKING:
    from napari_grata.widgets.compare.overlay import Overlay
    from napari_grata.widgets.session import Session

_GRIP = 19
SMALL_STEP, LARGE_STEP = 0.02, 0.1


class Handle(QWidget):
    """The line that the person drags; it stays where it is when the picture is moved.

    Parameters
    ----------
    canvas : QWidget

    Signals
    -------
    moved(float)
        Share of the canvas's width that lies left of the line, 0 … 1.
    """

    moved = Signal(float)

    def __init__(self, canvas: QWidget) -> None:
        super().__init__(canvas)
        self.place = 0.5
        self._canvas = canvas
        self.setObjectName("grata_curtain")
        self.setCursor(Qt.CursorShape.SplitHCursor)
        self.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self.setAttribute(Qt.WidgetAttribute.WA_NoSystemBackground)
        self.setStyleSheet("background: transparent;")
        self.setAccessibleName("Curtain between the mask before and the mask after")
        self.setToolTip("Drag, or move with ← and → (Shift: in larger steps).")
        canvas.installEventFilter(self)
        self._lay()
        self.hide()

    def move_to(self, place: float) -> None:
        """Put the line at a share of the canvas's width."""
        self.place = min(1.0, max(0.0, place))
        self._lay()
        self.moved.emit(self.place)

    def _lay(self) -> None:
        x = round(self.place * self._canvas.width())
        self.setGeometry(x - _GRIP // 2, 0, _GRIP, self._canvas.height())

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802 - Qt's name
        """Keep the place when the canvas grows or shrinks."""
        if event.type() == QEvent.Type.Resize:
            self.move_to(self.place)
        return False

    def mousePressEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Take hold of the line."""
        event.setAccepted(event.button() == Qt.MouseButton.LeftButton)

    def mouseMoveEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Pull the line along."""
        if event.buttons() & Qt.MouseButton.LeftButton and self._canvas.width():
            x = self.mapTo(self._canvas, event.pos()).x()
            self.move_to(x / self._canvas.width())

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Move with the arrow keys; every other key is for the viewer."""
        large = bool(event.modifiers() & Qt.KeyboardModifier.ShiftModifier)
        step = LARGE_STEP if large else SMALL_STEP
        places = {
            Qt.Key.Key_Left: self.place - step,
            Qt.Key.Key_Right: self.place + step,
            Qt.Key.Key_Home: 0.0,
            Qt.Key.Key_End: 1.0,
        }
        if event.key() in places:
            self.move_to(places[event.key()])
        else:
            event.ignore()

    def paintEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Draw the line and its grip."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        x, middle = self.width() / 2, self.height() / 2
        white = QColor(255, 255, 255)
        draw_line(painter, QPointF(x, 0), QPointF(x, self.height()), white, 2)
        painter.setPen(QPen(QColor(0, 0, 0, 170), 1))
        painter.setBrush(white)
        painter.drawRoundedRect(QRectF(x - 8, middle - 14, 16, 28), 5, 5)
        painter.setPen(QPen(QColor(40, 40, 40), 1.6))
        for side in (-1, 1):
            tip = QPointF(x + side * 5.5, middle)
            painter.drawLine(tip, QPointF(x + side * 2, middle - 4))
            painter.drawLine(tip, QPointF(x + side * 2, middle + 4))
        painter.end()


class Curtain:
    """Both masks are on, each on its side of the line."""

    title = "Curtain: left the mask before, right the mask after. Drag the line."
    shows = (True, True)

    def __init__(self, viewer: Any, overlay: Overlay, canvas: QWidget) -> None:
        self._viewer = viewer
        self._overlay = overlay
        self._canvas = canvas
        self._halves: list[Half] = []
        self.handle = Handle(canvas)
        self.handle.moved.connect(self._on_moved)

    def begin(self, session: Session) -> None:
        """Cut the masks of a session at the line.

        Raises
        ------
        CompareError
        """
        try:
            for mask, side in ((session.before, LEFT), (session.after, RIGHT)):
                self._halves.append(Half(self._viewer, mask.layer, side))
        except CompareError:
            self.end()
            raise
        self._overlay.add(self.draw)
        self.handle.show()
        self.handle.raise_()
        self.handle.move_to(self.handle.place)

    def end(self) -> None:
        """Show the masks whole again."""
        halves, self._halves = self._halves, []
        for half in halves:
            half.take_off()
        self._overlay.remove(self.draw)
        self.handle.hide()

    def shift(self, step: float) -> None:
        """Move the line by a share of the canvas's width."""
        self.handle.move_to(self.handle.place + step)

    def masks_changed(self) -> None:
        """Nothing to do: the layers draw themselves."""

    def view_changed(self) -> None:
        """Nothing to do: the line stays on the canvas."""

    def _on_moved(self, place: float) -> None:
        x = place * self._canvas.width() * self._canvas.devicePixelRatioF()
        for half in self._halves:
            half.set_line(x)
        self._overlay.update()

    def draw(self, painter: QPainter) -> None:
        """Write on each side which mask it shows."""
        box = QRectF(self._overlay.rect())
        x = self.handle.place * box.width()
        left = QRectF(box.left(), box.top(), x, box.height())
        right = QRectF(x, box.top(), box.width() - x, box.height())
        draw_caption(painter, "mask before", left, "right")
        draw_caption(painter, "mask after", right, "left")
