"""Small pieces that the sections share: rows, buttons, sentences, the steps of the dock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from napari.utils.notifications import Notification, notification_manager
from qtpy.QtCore import QObject, QSettings, Qt, QTimer, Signal
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import (
    QAbstractButton,
    QAction,
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QMenu,
    QPushButton,
    QSizePolicy,
    QTextBrowser,
    QToolButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QElidingLabel

from napari_grata.widgets.theme import ThemeColours, mark, tip

LABEL_WIDTH = 76


class _Notice(Notification):
    """In full in the window; in the terminal, which is often kept as a log, without names."""

    def __str__(self) -> str:
        return f"{str(self.severity).upper()}: GraTa says something in napari's window."


def notify(text: str, severity: str = "error") -> None:
    """Tell the user something by napari's notification in the corner of the window.

    napari writes its own to the terminal as well, where the names of files and layers, often those
    of patients, have no business.

    Parameters
    ----------
    severity : {"error", "warning", "info"}
    """
    notification_manager.dispatch(_Notice(text, severity))


def interface_settings() -> QSettings:
    """Return the store of what the interface remembers between sessions.

    It is ``$NAPARI_GRATA_HOME/interface.ini`` where that variable is set, else the user's usual
    place for settings.
    """
    home = os.environ.get("NAPARI_GRATA_HOME")
    if home:
        return QSettings(str(Path(home) / "interface.ini"), QSettings.Format.IniFormat)
    return QSettings(
        QSettings.Format.IniFormat, QSettings.Scope.UserScope, "napari-grata", "interface"
    )


def later(parent: QObject, milliseconds: int, do: Callable[..., None]) -> QTimer:
    """Return a timer that does something once, so long after it was last started."""
    made = QTimer(parent)
    made.setSingleShot(True)
    made.setInterval(milliseconds)
    made.timeout.connect(do)
    return made


def row(label: str, *widgets: QWidget, tip: str = "") -> QWidget:
    """Return a line: a name on the left, one or more controls beside it, the first one wide."""
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


def line_in(
    column: QVBoxLayout, *widgets: QWidget | tuple[QWidget, int], spacing: int = 4, stretch: int = 0
) -> QHBoxLayout:
    """Return a new line at the end of a column, filled with widgets (and how far each stretches).

    In this order: a layout that is filled before it has a parent leaves PySide6 handles on its
    items that outlive them, and the next widget at the same address is taken for one of them.
    """
    line = QHBoxLayout()
    column.addLayout(line, stretch)
    line.setContentsMargins(0, 0, 0, 0)
    line.setSpacing(spacing)
    for one in widgets:
        widget, share = one if isinstance(one, tuple) else (one, 0)
        line.addWidget(widget, share)
    return line


def choice(
    tip: str = "", name: str = "", entries: Iterable[tuple[str, Any]] = (), *, small: bool = False
) -> QComboBox:
    """Return a combo box that never forces the dock to grow wider than its entries fit.

    Parameters
    ----------
    entries : iterable of (str, object)
        Words and data of each.
    small : bool
        No wider than it has to be.
    """
    box = QComboBox()
    for words, data in entries:
        box.addItem(words, data)
    keep_narrow(box)
    wide = QSizePolicy.Policy.Maximum if small else QSizePolicy.Policy.Expanding
    box.setSizePolicy(wide, QSizePolicy.Policy.Fixed)
    box.setToolTip(tip)
    box.setAccessibleName(name)
    return box


def keep_narrow(box: QComboBox) -> None:
    """Let a combo box cut its entries short rather than force the dock to be as wide as they."""
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(8)


def button(
    text: str,
    words: str = "",
    *,
    small: bool = False,
    clicked: Callable[[], object] | None = None,
) -> QPushButton:
    """Return a push button that can be reached with Tab.

    Parameters
    ----------
    words : str
        Its tooltip.
    small : bool
        No wider than its text.
    clicked : callable, optional
        A bound method that takes nothing.
    """
    made = QPushButton(text)
    made.setToolTip(words)
    made.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    if small:
        made.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
    if clicked is not None:
        made.clicked.connect(partial(_press, clicked))
    return made


def offer(made: QAbstractButton, why_not: str, words: str) -> None:
    """Enable a button with its tooltip, or disable it with the reason in place of that."""
    made.setEnabled(not why_not)
    made.setToolTip(why_not or words)


def _press(do: Callable[[], object], _checked: bool = False) -> None:
    do()


def column_in(widget: QWidget, *widgets: QWidget, spacing: int = 4) -> QVBoxLayout:
    """Put widgets one below the other into another, without margins; returns its layout."""
    layout = QVBoxLayout(widget)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(spacing)
    for one in widgets:
        layout.addWidget(one)
    return layout


def column(*widgets: QWidget, spacing: int = 4) -> QWidget:
    """Return widgets one below the other."""
    made = QWidget()
    column_in(made, *widgets, spacing=spacing)
    return made


class Sentence(QElidingLabel):
    """Text within a fixed number of lines, so that nothing below it jumps.

    What does not fit ends in an ellipsis; all of it is the tooltip. ``look`` is a name in the style
    sheet, such as ``"grata_small"``.
    """

    def __init__(self, lines: int = 1, look: str = "") -> None:
        super().__init__()
        self._lines = lines
        self.setObjectName(look)
        self.setWordWrap(lines > 1)
        self.setElideMode(Qt.TextElideMode.ElideRight)
        # The theme's margin is room that the text is painted without but elided with: the ellipsis
        # would wrap onto a line that is not there.
        self.setStyleSheet("padding: 0; margin: 0;")
        across = Qt.AlignmentFlag.AlignTop if lines > 1 else Qt.AlignmentFlag.AlignVCenter
        sides: Any = across | Qt.AlignmentFlag.AlignLeft  # an int to some bindings' stubs
        self.setAlignment(sides)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self._fix_height()

    def say(self, text: str, tone: str = "") -> None:
        """Show a text; ``tone`` is "", "good", "warning" or "wrong"."""
        text = text.strip()
        mark(self, "tone", tone)
        if text != self.text():
            self.setText(text)
            self.setToolTip(tip(text))

    def said(self) -> str:
        """Return the whole text, shown in full or not."""
        return str(self.text())

    def changeEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Keep the height when the theme or the font changes."""
        super().changeEvent(event)
        self._fix_height()

    def showEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Fit the height: only now the theme's font is known."""
        super().showEvent(event)
        self._fix_height()

    def _fix_height(self) -> None:
        height = self.fontMetrics().lineSpacing() * self._lines + 6
        if height != self.minimumHeight():
            self.setFixedHeight(height)


class StepSection(QFrame):
    """One step of the dock: open, folded to one line that says its result, or waiting.

    Parameters
    ----------
    title : str
    body : QWidget
        What is in view while the step is open.

    Signals
    -------
    open_requested()
        The user clicked the line of a folded step.
    """

    open_requested = Signal()

    def __init__(self, title: str, body: QWidget) -> None:
        super().__init__()
        self.setObjectName("grata_line")
        self.title = title
        self.body = body
        self.header = QToolButton()
        self.header.setObjectName("grata_step")
        self.header.setText(title)
        self.header.setAutoRaise(True)
        self.header.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.header.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.header.clicked.connect(self.open_requested)
        self.summary = Sentence(1, "grata_muted")
        layout = column_in(self, spacing=2)
        layout.setContentsMargins(0, 0, 0, 2)
        line_in(layout, self.header, (self.summary, 1), spacing=6)
        layout.addWidget(body)
        self.show_state(is_open=False, summary="", waiting="")

    def mousePressEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Open the step by a click anywhere on its line, not on its name alone."""
        if not self.is_open and self.header.isEnabled():
            self.open_requested.emit()
        else:
            super().mousePressEvent(event)

    @property
    def is_open(self) -> bool:
        """Whether the body is in view."""
        return not self.body.isHidden()

    def show_state(self, *, is_open: bool, summary: str, waiting: str) -> None:
        """Show how the step stands.

        Parameters
        ----------
        is_open : bool
        summary : str
            Its result, beside the title of a folded step.
        waiting : str
            What it waits for, if its turn has not come: a grey line that cannot be opened.
        """
        self.header.setEnabled(not waiting)
        arrow = Qt.ArrowType.DownArrow if is_open else Qt.ArrowType.RightArrow
        self.header.setArrowType(Qt.ArrowType.NoArrow if waiting else arrow)
        self.summary.say(waiting or ("" if is_open else summary))
        self.body.setVisible(is_open and not waiting)


class Segmented(QWidget):
    """A row of buttons of which one is chosen.

    Parameters
    ----------
    options : list of (str, str, str)
        Name, text and tooltip of each.

    Signals
    -------
    chosen(str)
        The user pressed the button of this name.
    """

    chosen = Signal(str)

    def __init__(self, options: list[tuple[str, str, str]]) -> None:
        super().__init__()
        self.buttons: dict[str, QToolButton] = {}
        self._words = {name: words for name, _, words in options}
        for name, text, words in options:
            made = QToolButton()
            made.setText(text)
            made.setToolTip(words)
            made.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
            made.setSizePolicy(QSizePolicy.Policy.Minimum, QSizePolicy.Policy.Fixed)
            made.clicked.connect(partial(_press, partial(self.chosen.emit, name)))
            self.buttons[name] = made
        line_in(column_in(self), *self.buttons.values(), spacing=1)

    def choose(self, name: str) -> None:
        """Show one as chosen; emits nothing."""
        self.choose_all({other: other == name for other in self.buttons})

    def choose_all(self, chosen: dict[str, bool]) -> None:
        """Show which are on, where each is a switch of its own; emits nothing."""
        for name, on in chosen.items():
            mark(self.buttons[name], "chosen", "true" if on else "false")

    def offer(self, name: str, why_not: str = "") -> None:
        """Enable a button, or disable it for a reason that becomes part of its tooltip."""
        usual = self._words[name]
        offer(self.buttons[name], f"{usual}\n{why_not}" if why_not else "", usual)


def menu_entry(menu: QMenu, words: str, do: Callable[..., object], about: str = "") -> QAction:
    """Add an entry to a menu; ``do`` takes nothing, ``about`` is its tooltip."""
    made = QAction(words, menu)
    made.setToolTip(about)
    made.triggered.connect(partial(_press, do))
    menu.addAction(made)
    return made


def copy_text(text: str) -> None:
    """Put a text on the clipboard."""
    clipboard = QGuiApplication.clipboard()
    if clipboard is not None:
        clipboard.setText(text)


def dialog(parent: QWidget, title: str, body: QWidget) -> tuple[QDialog, QDialogButtonBox]:
    """Return a window beside the viewer, which stays usable, and its buttons: so far *Close*."""
    made = QDialog(parent)
    made.setWindowTitle(title)
    made.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
    buttons.rejected.connect(made.reject)
    layout = QVBoxLayout(made)
    layout.addWidget(body, 1)
    layout.addWidget(buttons)
    return made, buttons


def page(name: str, html: str, colours: ThemeColours) -> QTextBrowser:
    """Return words to read and copy, which scroll where they are long; links are only text."""
    made = QTextBrowser()
    made.setAccessibleName(name)
    made.setOpenLinks(False)
    made.setHtml(html)
    made.setStyleSheet(
        f"QTextBrowser {{background: {colours.background}; color: {colours.text};"
        f" border: 1px solid {colours.grid};}}"
    )
    return made


class LineList(QListWidget):
    """Lines with something behind each, such as a slice; a click, or Enter, chooses one.

    Signals
    -------
    chosen(object)
        What lies behind the line, unless that is None.
    """

    chosen = Signal(object)

    def __init__(self, name: str, about: str) -> None:
        super().__init__()
        self.setAccessibleName(name)
        self.setToolTip(about)
        self.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.itemClicked.connect(self._choose)
        self.itemActivated.connect(self._choose)

    def show_lines(self, lines: list[tuple[Any, str]]) -> None:
        """Show these lines, each after what lies behind it; without any there is no list."""
        self.setVisible(bool(lines))
        shown = [self.item(n) for n in range(self.count())]
        if [item.text() for item in shown if item is not None] == [text for _, text in lines]:
            return
        self.clear()
        for behind, text in lines:
            item = QListWidgetItem(text)
            item.setData(Qt.ItemDataRole.UserRole, behind)
            item.setToolTip(tip(text))
            self.addItem(item)

    def _choose(self, item: QListWidgetItem) -> None:
        behind = item.data(Qt.ItemDataRole.UserRole)
        if behind is not None:
            self.chosen.emit(behind)


class DropTarget(QWidget):
    """A widget on which files and folders can be dropped.

    Signals
    -------
    dropped(list of str)
        Their paths.
    """

    dropped = Signal(list)

    def __init__(self) -> None:
        super().__init__()
        self.setAcceptDrops(True)

    def dragEnterEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Take files and folders."""
        if event.mimeData().hasUrls():
            event.acceptProposedAction()

    def dropEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Tell what was dropped."""
        event.acceptProposedAction()
        urls = event.mimeData().urls()
        self.dropped.emit([url.toLocalFile() for url in urls if url.isLocalFile()])


def ask_folder(widget: QWidget, folder: str, title: str) -> str:
    """Ask for a folder; "" if the user gave none."""
    return str(QFileDialog.getExistingDirectory(widget, title, folder))
