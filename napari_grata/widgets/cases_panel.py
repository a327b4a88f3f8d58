"""The list of cases on the screen: pictures, marks, lines, and the controls around them."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QModelIndex, QObject, QPoint, QRect, QSignalBlocker, QSize, Qt, Signal
from qtpy.QtGui import QColor, QFont, QFontMetrics, QImage, QPainter, QPixmap
from qtpy.QtWidgets import (
    QAbstractItemView,
    QAction,
    QDockWidget,
    QLineEdit,
    QListView,
    QMenu,
    QProgressBar,
    QSizePolicy,
    QStyle,
    QStyledItemDelegate,
    QWidget,
)

from napari_grata.scans.photographs import is_photograph
from napari_grata.widgets.background import Found, Queue
from napari_grata.widgets.cases_model import (
    FILTERS,
    ORDERS,
    ROW_ROLE,
    STATE_SIGNS,
    CaseModel,
    CaseRow,
)
from napari_grata.widgets.qt_parts import DropTarget, Sentence, button, choice, column_in, line_in
from napari_grata.widgets.theme import ThemeColours, blend, sheet, theme_colours, tip

if TYPE_CHECKING:
    from napari_grata.review.case_list import CaseList
    from napari_grata.widgets.context import Context

SIDE = 38
_RATIO = 2  # device pixels per pixel of the interface: crisp on high-DPI screens
_KEPT = 600  # pictures of 80 × 80 pixels: 15 MB
_ASKED = 40  # rows scrolled past long ago need no picture
_TOO_LARGE = 60_000_000


class Pictures(QObject):
    """Pixmaps by case, made of a case's thumbnail, or of its photograph until there is one.

    Signals
    -------
    came(str key)
        The picture of a case is there, or is another one.
    """

    came = Signal(str)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._cases: CaseList | None = None
        self._kept: OrderedDict[str, QPixmap | None] = OrderedDict()
        self._asked: list[tuple[Path, str]] = []
        self._queue = Queue("pictures", self, context.connections)
        self._queue.found.connect(self._take)

    def set_cases(self, cases: CaseList | None) -> None:
        """Show another list's cases."""
        self._cases = cases
        self._kept.clear()
        self._asked.clear()
        self._queue.keep_only(())

    def get(self, key: str) -> QPixmap | None:
        """Return a case's picture; None while it is being read, and where there is none."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        self._ask(key)
        return None

    def renew(self, key: str) -> None:
        """Read a picture again; the old one is shown until then."""
        if key in self._kept:
            self._ask(key, again=True)

    def put(self, key: str, picture: np.ndarray) -> None:
        """Take a picture that was made elsewhere, where there is none yet."""
        if self._kept.get(key) is None:
            self._keep(key, picture)

    def _ask(self, key: str, again: bool = False) -> None:
        if self._cases is None:
            return
        wish = self._cases.folder, key  # cases of other lists have the same keys
        if self._queue.wanted(wish) and not again:
            return
        case = self._cases.case(key)
        photograph = case.sources[0] if len(case.sources) == 1 else None
        self._asked = [*[other for other in self._asked if other != wish], wish][-_ASKED:]
        self._queue.keep_only(self._asked)
        do = partial(_read, self._cases.work(key).folder / "thumbnail.png", photograph)
        self._queue.ask(wish, do, first=True)

    def _take(self, found: Found) -> None:
        folder, key = found.key
        if self._cases is not None and self._cases.folder == folder and found.error is None:
            self._keep(key, found.result)

    def _keep(self, key: str, picture: np.ndarray | None) -> None:
        if picture is None and self._kept.get(key) is not None:
            return
        self._kept[key] = None if picture is None else _pixmap(picture)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        if picture is not None:
            self.came.emit(key)


def _read(thumbnail: Path, photograph: Path | None) -> np.ndarray | None:
    """Return a picture, shape (H, W, 3) uint8, of at most ``SIDE`` pixels a side; else None."""
    from PIL import Image, ImageOps

    for path in (thumbnail, photograph):
        if path is None or not is_photograph(path) or not path.is_file():
            continue
        try:
            with Image.open(path) as image:
                if image.width * image.height > _TOO_LARGE or image.mode.startswith(("I", "F")):
                    continue
                # JPEG decodes an eighth of the size in an eighth of the time.
                image.draft("RGB", (SIDE * _RATIO, SIDE * _RATIO))
                small = ImageOps.exif_transpose(image).convert("RGB")
                small.thumbnail((SIDE * _RATIO, SIDE * _RATIO))
                return np.asarray(small)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
    return None


def small_picture(image: np.ndarray) -> np.ndarray:
    """Return a slice, shape (H, W) or (H, W, 3), as a small picture, uint8 (h, w, 3)."""
    step = max(1, -(-max(image.shape[:2]) // (SIDE * _RATIO)))
    small = np.asarray(image[::step, ::step], dtype=np.float32)
    finite = small[np.isfinite(small)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    grey = np.nan_to_num((small - low) * (255 / (high - low if high > low else 1.0)))
    grey = np.clip(grey, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2) if grey.ndim == 2 else grey[..., :3]


def _pixmap(picture: np.ndarray) -> QPixmap:
    picture = np.ascontiguousarray(picture)
    height, width = picture.shape[:2]
    image = QImage(picture.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
    made = QPixmap.fromImage(image)
    # Some thumbnails are smaller than the place they have.
    made.setDevicePixelRatio(max(1.0, max(width, height) / SIDE))
    return made


_PAD = 3
_SIGN = 16  # room for the sign of a state


class CaseDelegate(QStyledItemDelegate):
    """Draws two lines of text beside a small picture; all rows are of one height.

    Parameters
    ----------
    pictures : Pictures
    parent : QWidget
    """

    def __init__(self, pictures: Pictures, parent: Any = None) -> None:
        super().__init__(parent)
        self._pictures = pictures
        self.set_colours(theme_colours("dark"))

    def set_colours(self, colours: ThemeColours) -> None:
        """Take the colours of a theme."""
        self._colours = colours
        self._text, self._muted = QColor(colours.text), QColor(colours.muted)
        self._attention, self._wrong = QColor(colours.attention), QColor(colours.wrong)
        self._accent, self._line = QColor(colours.accent), QColor(colours.grid)
        self._chosen = QColor(blend(colours.background, colours.accent, 0.28))
        self._focused = QColor(blend(colours.background, colours.text, 0.12))
        self._empty = QColor(colours.foreground)

    def sizeHint(self, option: Any, index: Any) -> QSize:  # noqa: N802 - Qt's name
        """Return the one size of all rows."""
        text = 2 * QFontMetrics(option.font).height() + 8
        return QSize(120, max(SIDE + 2 * _PAD, text))

    def paint(self, painter: Any, option: Any, index: Any) -> None:
        """Draw one line."""
        row: CaseRow | None = index.data(ROW_ROLE)
        if row is None:
            return
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        box: QRect = option.rect
        current = row.key == index.model().current
        if current:
            painter.fillRect(box, self._chosen)
            painter.fillRect(QRect(box.left(), box.top(), 3, box.height()), self._accent)
        elif option.state & (QStyle.StateFlag.State_Selected | QStyle.StateFlag.State_MouseOver):
            painter.fillRect(box, self._focused)
        if option.state & QStyle.StateFlag.State_HasFocus:
            painter.setPen(self._accent)
            painter.drawRect(box.adjusted(0, 0, -1, -1))
        place = QRect(box.left() + 7, box.center().y() - SIDE // 2 + 1, SIDE, SIDE)
        self._draw_picture(painter, row, place)
        text = box.adjusted(place.right() - box.left() + 8, _PAD, -6, -_PAD)
        self._draw_words(painter, option.font, row, text, current)
        if row.work:
            self._draw_progress(painter, row, box)
        painter.restore()

    def _draw_picture(self, painter: QPainter, row: CaseRow, place: QRect) -> None:
        picture = self._pictures.get(row.key)
        if picture is None:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(self._empty)
            painter.drawRoundedRect(place, 3, 3)
            painter.setPen(self._muted)
            painter.drawText(place, Qt.AlignmentFlag.AlignCenter, str(row.number))
            return
        size = picture.size() / picture.devicePixelRatio()
        corner = place.center() - QPoint(size.width() // 2, size.height() // 2)
        painter.drawPixmap(corner, picture)

    def _draw_words(
        self, painter: QPainter, font: QFont, row: CaseRow, box: QRect, current: bool
    ) -> None:
        first, second = QRect(box), QRect(box)
        first.setHeight(box.height() // 2)
        second.setTop(first.bottom() + 1)
        bold = QFont(font)
        bold.setBold(current)
        flags = f"⚑ {row.flags}" if row.flags else ""
        room = self._write(painter, font, first, flags, self._attention, right=True)
        # Names of cases differ at their end more often than not.
        middle = Qt.TextElideMode.ElideMiddle
        self._write(painter, bold, room, row.title, self._text, elide=middle)
        sign, colour = STATE_SIGNS[row.state]
        ink = QColor(colour).lighter(150 if self._colours.dark else 100)
        self._write(painter, font, second, sign, ink)
        room = second.adjusted(_SIGN, 0, 0, 0)
        for words in (row.change_words, shift_word(row)):
            room = self._write(painter, font, room, words, self._muted, right=True)
        ink = self._accent if row.work else self._wrong if row.problem else self._muted
        self._write(painter, font, room, row.work or row.state.value, ink)

    @staticmethod
    def _write(
        painter: QPainter,
        font: QFont,
        box: QRect,
        words: str,
        ink: QColor,
        *,
        right: bool = False,
        elide: Qt.TextElideMode = Qt.TextElideMode.ElideRight,
    ) -> QRect:
        """Write at one end of a box; returns the room that is left before words at its right."""
        metrics = QFontMetrics(font)
        painter.setFont(font)
        painter.setPen(ink)
        side = Qt.AlignmentFlag.AlignRight if right else Qt.AlignmentFlag.AlignLeft
        shown = metrics.elidedText(words, elide, max(0, box.width()))
        painter.drawText(box, side | Qt.AlignmentFlag.AlignVCenter, shown)
        used = int(metrics.horizontalAdvance(words)) + 8 if words else 0
        return box.adjusted(0, 0, -used, 0)

    def _draw_progress(self, painter: QPainter, row: CaseRow, box: QRect) -> None:
        line = QRect(box.left() + 7, box.bottom() - 2, box.width() - 13, 2)
        painter.fillRect(line, self._line)
        line.setWidth(round(line.width() * min(1.0, max(0.0, row.share))))
        painter.fillRect(line, self._accent)


def shift_word(row: CaseRow) -> str:
    """Return how far a case is from the source centre, in a word."""
    first = row.shift_words.split(" ", 1)[0].lower()
    return {"close": "near", "farther": "farther", "far": "far", "all": "near"}.get(first, "")


class CasePanel(DropTarget):
    """The list and its controls; it knows rows, and nothing of the disk or the viewer.

    Signals
    -------
    case_requested(str key)
        A line was clicked, or Enter pressed on it.
    next_requested(), previous_requested()
    batch_requested()
        "Adapt all", or "Pause" while that goes on.
    carry_changed(bool)
    choice_changed()
        Another filter, text or order.
    """

    case_requested = Signal(str)
    next_requested = Signal()
    previous_requested = Signal()
    batch_requested = Signal()
    carry_changed = Signal(bool)
    choice_changed = Signal()

    def __init__(self, pictures: Pictures) -> None:
        super().__init__()
        self.setObjectName("grata_cases")
        self.model = CaseModel(self)
        self._batch_words = ""
        self.menu_button = button("Lists", "Open a list of cases, or go on with another.")
        self.menu_button.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        self.menu = QMenu(self.menu_button)
        self.menu_button.setMenu(self.menu)
        self.progress = Sentence(1)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(4)
        self.bar.setAccessibleName("Cases decided")

        entries = ((words, key) for key, (words, _) in FILTERS.items())
        self.filter = choice("Which cases are listed.", "Filter by state", entries)
        entries = ((words, key) for key, (words, _) in ORDERS.items())
        self.order = choice("In which order the cases are listed.", "Order", entries)
        for box in (self.filter, self.order):
            box.setMinimumContentsLength(5)
        self.search = QLineEdit()
        self.search.setPlaceholderText("find")
        self.search.setAccessibleName("Find cases by name or number")
        self.search.setToolTip("Only cases whose name or number holds these letters.")
        self.search.setClearButtonEnabled(True)

        self.view = _View()
        self.delegate = CaseDelegate(pictures, self.view)
        self.view.setModel(self.model)
        self.view.setItemDelegate(self.delegate)
        self.nothing = Sentence(2, "grata_muted")

        self.previous_button = button("Previous", "Open the case before (K).")
        self.next_button = button("Next", "Open the next case of those listed, in this order (J).")
        self.batch_button = button("Adapt all")
        self.carry = QAction("Carry the model over from case to case", self)
        self.carry.setCheckable(True)
        self.carry.setToolTip(
            tip(
                "Off: each case is adapted to by itself, beginning with the model as it was "
                "trained.\nOn: the model goes on from case to case, in the order of the list."
            )
        )
        self.menu.setToolTipsVisible(True)
        self.said = Sentence(1, "grata_small")
        self._lay_out()
        self._wire(pictures)
        self.say_batch("idle")

    def _lay_out(self) -> None:
        column = column_in(self)
        column.setContentsMargins(6, 4, 6, 2)
        line_in(column, (self.progress, 1), self.menu_button)
        column.addWidget(self.bar)
        line_in(column, (self.filter, 5), (self.order, 5), (self.search, 4))
        column.addWidget(self.view, 1)
        column.addWidget(self.nothing)
        line_in(column, (self.previous_button, 1), (self.next_button, 1), (self.batch_button, 1))
        column.addWidget(self.said)
        self.setMinimumWidth(240)

    def _wire(self, pictures: Pictures) -> None:
        self.view.chosen.connect(self._on_chosen)
        self.filter.currentIndexChanged.connect(self._on_choice)
        self.order.currentIndexChanged.connect(self._on_choice)
        self.search.textChanged.connect(self._on_choice)
        self.previous_button.clicked.connect(self.previous_requested)
        self.next_button.clicked.connect(self.next_requested)
        self.batch_button.clicked.connect(self.batch_requested)
        self.carry.toggled.connect(self.carry_changed)
        pictures.came.connect(self.model.redraw)
        self.model.modelReset.connect(self._say_nothing)

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the size it would like: as wide as napari's own lists."""
        return QSize(260, 560)

    # --- what it is told -------------------------------------------------------------------

    def set_colours(self, colours: ThemeColours) -> None:
        """Take the colours of a theme."""
        self.setStyleSheet(
            sheet(colours)
            + f"""
            QWidget#grata_cases QListView {{ background: {colours.background};
                border: 1px solid {colours.grid}; }}
            QWidget#grata_cases QProgressBar {{ background: {colours.grid}; border: none;
                min-height: 4px; max-height: 4px; border-radius: 2px; }}
            QWidget#grata_cases QProgressBar::chunk {{ background: {colours.accent};
                border-radius: 2px; }}
            """
        )
        self.delegate.set_colours(colours)
        port = self.view.viewport()
        if port is not None:
            port.update()

    def set_current(self, key: str | None) -> None:
        """Mark the case in view and bring its line into sight."""
        self.model.set_current(key)
        self.show_place(key)

    def show_place(self, key: str | None) -> None:
        """Bring the line of a case into sight."""
        place = self.model.place_of(key)
        if place is not None:
            index = self.model.index(place, 0)
            self.view.setCurrentIndex(index)
            self.view.scrollTo(index)

    def choices(self) -> tuple[str, str, str]:
        """Return filter, text and order."""
        return str(self.filter.currentData()), self.search.text(), str(self.order.currentData())

    def set_choices(self, filtered: str, text: str, order: str) -> None:
        """Set filter, text and order."""
        with QSignalBlocker(self.filter), QSignalBlocker(self.order), QSignalBlocker(self.search):
            self.filter.setCurrentIndex(max(0, self.filter.findData(filtered)))
            self.order.setCurrentIndex(max(0, self.order.findData(order)))
            self.search.setText(text)
        self._on_choice()

    def say_batch(self, state: str, words: str = "") -> None:
        """Show what the batch does: ``idle``, ``running``, ``waiting`` or ``off``."""
        running = state in ("running", "waiting")
        self.batch_button.setText("Pause" if running else "Adapt all")
        self.batch_button.setToolTip(
            "Pause after the step in progress; Adapt all goes on from there."
            if running
            else "Adapt to all cases that are still new, beginning with the one in view, with the "
            "model and the method chosen. You can review meanwhile."
        )
        self.batch_button.setEnabled(state != "off")
        self.carry.setEnabled(state == "idle")
        self._batch_words = words
        self.say("")

    def say(self, words: str) -> None:
        """Say something at the foot; "" for what the batch does."""
        self.said.say(words or self._batch_words)

    # --- inside ------------------------------------------------------------------------------

    def _on_choice(self, *_: Any) -> None:
        self.model.choose(*self.choices())
        self.show_place(self.model.current)
        self.choice_changed.emit()

    def _say_nothing(self) -> None:
        empty = not self.model.rows
        self.nothing.setVisible(empty)
        if empty:
            self.nothing.say(
                "No case passes this filter." if self.model.total else "No list is open."
            )

    def _on_chosen(self, index: QModelIndex) -> None:
        row = index.data(ROW_ROLE)
        if row is not None:
            self.case_requested.emit(row.key)


class _View(QListView):
    """A list of rows of one height, which a click or Enter opens.

    Signals
    -------
    chosen(QModelIndex)
    """

    chosen = Signal(QModelIndex)

    def __init__(self) -> None:
        super().__init__()
        self.setUniformItemSizes(True)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setMouseTracking(True)
        self.setMinimumHeight(96)
        self.setAccessibleName("Cases")
        self.clicked.connect(self.chosen)

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Open the chosen line with Enter; letters are keys, not a search for names."""
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.chosen.emit(self.currentIndex())
        elif event.text() and event.text().isprintable() and event.text() != " ":
            event.ignore()
        else:
            super().keyPressEvent(event)


def dock_of(panel: QWidget) -> QDockWidget | None:
    """Return napari's dock around the panel; napari destroys a dock that is closed."""
    parent: Any = panel.parent()
    while parent is not None and not isinstance(parent, QDockWidget):
        parent = parent.parent()
    return parent


def remove_panel(viewer: weakref.ref[Any], panel: CasePanel) -> None:
    """Take the panel away for good when the plugin's dock goes; either may be gone before."""
    found = viewer()
    with suppress(LookupError, RuntimeError, AttributeError):
        if found is not None and panel.parent() is not None:
            found.window.remove_dock_widget(panel)
    with suppress(RuntimeError):
        panel.hide()
        panel.deleteLater()
