"""Small pieces that the dock's sections share: rows, headings, buttons."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QEvent, QSize, Qt
from qtpy.QtWidgets import (
    QComboBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_grata.widgets.fold import dock_settings

LABEL_WIDTH = 66


def row(label: str, *widgets: QWidget, tip: str = "") -> QWidget:
    """Return a line of the dock: a name on the left, one or more controls beside it."""
    line = QWidget()
    layout = QHBoxLayout(line)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(4)
    if label:
        name = QLabel(label)
        name.setFixedWidth(LABEL_WIDTH)
        name.setToolTip(tip)
        buddy = next((w for w in widgets if w.focusPolicy() != Qt.FocusPolicy.NoFocus), None)
        if buddy is not None:
            name.setBuddy(buddy)
        layout.addWidget(name)
    for index, widget in enumerate(widgets):
        if tip and not widget.toolTip():
            widget.setToolTip(tip)
        layout.addWidget(widget, 1 if index == 0 else 0)
    return line


def choice(tip: str = "", name: str = "") -> QComboBox:
    """Return a combo box that never forces the dock to grow wider than its entries fit."""
    box = QComboBox()
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(8)
    box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    box.setToolTip(tip)
    box.setAccessibleName(name)
    return box


def button(text: str, tip: str = "", *, small: bool = False) -> QPushButton:
    """Return a push button that can be reached with Tab."""
    made = QPushButton(text)
    made.setToolTip(tip)
    made.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    if small:
        made.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
    return made


class Section(QWidget):
    """A numbered part of the dock under its heading, which has room for buttons on its right.

    A click on the heading (or Enter, or Space) folds the section, which is remembered: who goes
    through a list of cases needs other sections in view than who chooses a model.

    Attributes
    ----------
    body : QVBoxLayout
        Takes what the section holds.
    """

    def __init__(self, number: int, title: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._key = f"sections/{title}"
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 4)
        column.setSpacing(4)
        heading = QFrame()
        heading.setObjectName("grata_heading")
        self._heading = QHBoxLayout(heading)
        self._heading.setContentsMargins(0, 2, 0, 2)
        self._heading.setSpacing(4)
        self._name = QToolButton()
        self._name.setObjectName("grata_title")
        self._name.setText(f"{number}  {title}")
        self._name.setToolTip("Click to fold or unfold this section.")
        self._name.setCheckable(True)
        self._name.setAutoRaise(True)
        self._name.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._name.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._name.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self._heading.addWidget(self._name, 1)
        column.addWidget(heading)
        self._inner = QWidget()
        self.body = QVBoxLayout(self._inner)
        self.body.setContentsMargins(0, 0, 0, 0)
        self.body.setSpacing(4)
        column.addWidget(self._inner)
        self._name.setChecked(bool(dock_settings().value(self._key, True, type=bool)))
        self._show(self.expanded)
        self._name.toggled.connect(self._on_toggled)

    @property
    def expanded(self) -> bool:
        """Whether what the section holds is in view."""
        return self._name.isChecked()

    def set_expanded(self, expanded: bool) -> None:
        """Unfold or fold the section, as a click would."""
        self._name.setChecked(expanded)

    def add_to_heading(self, *widgets: QWidget) -> None:
        """Put small buttons at the right end of the heading."""
        for widget in widgets:
            self._heading.addWidget(widget)

    def _on_toggled(self, expanded: bool) -> None:
        self._show(expanded)
        dock_settings().setValue(self._key, expanded)

    def _show(self, expanded: bool) -> None:
        self._name.setArrowType(Qt.ArrowType.DownArrow if expanded else Qt.ArrowType.RightArrow)
        self._inner.setVisible(expanded)


class Sentence(QLabel):
    """Text within a fixed number of lines, so that nothing below it jumps.

    What does not fit ends in an ellipsis; all of it is the tooltip.
    """

    def __init__(self, lines: int, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._lines = lines
        self._full = ""
        self._quiet = False
        self.setWordWrap(True)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self._fix()

    def say(self, text: str) -> None:
        """Show a text."""
        if text.strip() != self._full:
            self._full = text.strip()
            self._fit()

    def said(self) -> str:
        """Return the whole text, shown in full or not."""
        return self._full

    def showEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Fit the height: only now the theme's font is known."""
        super().showEvent(event)
        self._fix()
        self._fit()

    def resizeEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Fit the text to another width."""
        super().resizeEvent(event)
        self._fit()

    def changeEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Keep the height when the theme or the font changes."""
        super().changeEvent(event)
        if not self._quiet:
            self._fix()
            self._fit()

    def _fix(self) -> None:
        # Asked of the label itself: the style adds to what the font alone would need.
        self._quiet = True
        shown = self.text()
        self.setText("\n".join("x" * self._lines))
        height = self.sizeHint().height()
        self.setText(shown)
        self._quiet = False
        if height != self.minimumHeight():
            self.setFixedHeight(height)

    def _fit(self) -> None:
        self._quiet = True
        words = self._full.split(" ")
        kept = len(words)
        self.setText(self._full)
        while kept > 1 and self.width() > 20 and self._too_long():
            kept -= 1
            self.setText(" ".join(words[:kept]) + " …")
        self.setToolTip(self._full)
        self._quiet = False

    def _too_long(self) -> bool:
        return self.heightForWidth(self.width()) > self.minimumHeight()


class Column(QWidget):
    """The body of a scroll area: as tall as its wrapped texts need at the width there is.

    Qt's scroll area asks for the smallest size only, which cuts off labels that wrap.
    """

    def event(self, event: Any) -> bool:
        """Fit the height when the width, or what is inside, has changed."""
        done = bool(super().event(event))
        if event.type() in (QEvent.Type.LayoutRequest, QEvent.Type.Resize):
            layout = self.layout()
            if layout is not None and layout.hasHeightForWidth():
                needed = layout.totalHeightForWidth(self.width())
                if needed != self.minimumHeight():
                    self.setMinimumHeight(needed)
        return done


class Still(QWidget):
    """Holds a widget, and passes its wishes for room on only where they have changed.

    Qt asks for a new layout at each change of a label's words, all the way up; the main window then
    lays out and draws all its docks, although nothing has moved.

    Parameters
    ----------
    inner : QWidget
        Fills this widget.
    """

    def __init__(self, inner: QWidget, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._inner = inner
        self._wish = (QSize(), QSize())
        inner.setParent(self)
        # napari adds empty room below a dock in which nothing wants to grow taller.
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return what is inside wishes for."""
        return self._inner.sizeHint()

    def minimumSizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return what is inside needs."""
        return self._inner.minimumSizeHint()

    def resizeEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Give all the room to what is inside."""
        super().resizeEvent(event)
        self._inner.setGeometry(self.rect())

    def event(self, event: Any) -> bool:
        """Ask for another size only where another is wanted."""
        done = bool(super().event(event))
        if event.type() == QEvent.Type.LayoutRequest:
            wish = (self.sizeHint(), self.minimumSizeHint())
            if wish != self._wish:
                self._wish = wish
                self.updateGeometry()
        return done


def scrolling(*widgets: QWidget) -> QScrollArea:
    """Return widgets one below the other, in an area that scrolls up and down only."""
    inner = Column()
    column = QVBoxLayout(inner)
    column.setContentsMargins(8, 0, 8, 6)
    column.setSpacing(6)
    for widget in widgets:
        column.addWidget(widget)
    column.addStretch(1)
    area = QScrollArea()
    area.setWidget(inner)
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    return area
