"""What a person sees of the list: how far it is, filter, cases, next and previous, Adapt all."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QModelIndex, QSize, Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QAction,
    QHBoxLayout,
    QLineEdit,
    QListView,
    QMenu,
    QProgressBar,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_grata.widgets.cases.delegate import CaseDelegate
from napari_grata.widgets.cases.model import ROW_ROLE, CaseModel
from napari_grata.widgets.cases.pictures import Pictures
from napari_grata.widgets.cases.rows import FILTERS, ORDERS
from napari_grata.widgets.parts import Sentence, button, choice
from napari_grata.widgets.sheet import sheet
from napari_grata.widgets.theme import theme_colours, tip


class CasePanel(QWidget):
    """The list and its controls; it knows rows, and nothing of the disk or the viewer.

    Signals
    -------
    case_wanted(str key)
        A line was clicked, or Enter pressed on it.
    next_wanted(), previous_wanted()
    ahead_wanted()
        "Adapt all", or "Pause" while that goes on.
    carry_changed(bool)
    choice_changed()
        Another filter, text or order.
    dropped(QMimeData)
        Files or folders.
    """

    case_wanted = Signal(str)
    next_wanted = Signal()
    previous_wanted = Signal()
    ahead_wanted = Signal()
    carry_changed = Signal(bool)
    choice_changed = Signal()
    dropped = Signal(object)

    def __init__(self, pictures: Pictures, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("grata_cases")
        self.model = CaseModel(self)
        self._quiet = False
        self._ahead = ""
        self.menu_button = button("Lists", "Open a list of cases, or go on with another.")
        self.menu_button.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        self.menu = QMenu(self.menu_button)
        self.menu_button.setMenu(self.menu)
        self.progress = Sentence(1)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(4)
        self.bar.setAccessibleName("Cases decided")

        self.filter = choice("Which cases are listed.", "Filter by state")
        for key, (words, _) in FILTERS.items():
            self.filter.addItem(words, key)
        self.order = choice("In which order the cases are listed.", "Order")
        for key, (words, _) in ORDERS.items():
            self.order.addItem(words, key)
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
        self.nothing = Sentence(2)
        self.nothing.setObjectName("grata_muted")

        self.previous_button = button("Previous", "Open the case before (K).")
        self.next_button = button("Next", "Open the next case of those listed, in this order (J).")
        self.ahead_button = button("Adapt all")
        self.carry = QAction("Carry the model over from case to case", self)
        self.carry.setCheckable(True)
        self.carry.setToolTip(
            tip(
                "Off: each case is adapted to by itself, beginning with the model as it was "
                "trained.\nOn: the model goes on from case to case, in the order of the list."
            )
        )
        self.menu.setToolTipsVisible(True)
        self.said = Sentence(1)
        self.said.setObjectName("grata_small")
        self._lay_out()
        self._wire(pictures)
        self.say_ahead("idle")

    def _lay_out(self) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(6, 4, 6, 2)
        column.setSpacing(4)
        for widgets in (
            ((self.progress, 1), (self.menu_button, 0)),
            ((self.bar, 1),),
            ((self.filter, 5), (self.order, 5), (self.search, 4)),
            ((self.view, 1),),
            ((self.nothing, 1),),
            ((self.previous_button, 1), (self.next_button, 1), (self.ahead_button, 1)),
            ((self.said, 1),),
        ):
            line = QHBoxLayout()
            line.setSpacing(4)
            for widget, stretch in widgets:
                line.addWidget(widget, stretch)
            column.addLayout(line, 1 if widgets[0][0] is self.view else 0)
        self.setMinimumWidth(240)
        self.setAcceptDrops(True)

    def _wire(self, pictures: Pictures) -> None:
        self.view.chosen.connect(self._on_chosen)
        self.filter.currentIndexChanged.connect(self._on_choice)
        self.order.currentIndexChanged.connect(self._on_choice)
        self.search.textChanged.connect(self._on_choice)
        self.previous_button.clicked.connect(self.previous_wanted)
        self.next_button.clicked.connect(self.next_wanted)
        self.ahead_button.clicked.connect(self.ahead_wanted)
        self.carry.toggled.connect(self.carry_changed)
        pictures.came.connect(self.model.picture_came)
        self.model.modelReset.connect(self._say_nothing)

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the size it would like: as wide as napari's own lists."""
        return QSize(260, 560)

    # --- what it is told -------------------------------------------------------------------

    def set_theme(self, name: str) -> None:
        """Take the colours of a napari theme."""
        colours = theme_colours(name)
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
        self._redraw()

    def set_current(self, key: str | None) -> None:
        """Mark the case in view and bring its line into sight."""
        self.delegate.set_current(key)
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
        self._quiet = True
        self.filter.setCurrentIndex(max(0, self.filter.findData(filtered)))
        self.order.setCurrentIndex(max(0, self.order.findData(order)))
        self.search.setText(text)
        self._quiet = False
        self._on_choice()

    def say_ahead(self, state: str, words: str = "") -> None:
        """Show what the worker ahead does: ``idle``, ``running``, ``waiting`` or ``off``."""
        running = state in ("running", "waiting")
        self.ahead_button.setText("Pause" if running else "Adapt all")
        self.ahead_button.setToolTip(
            "Pause after the step in progress; Adapt all goes on from there."
            if running
            else "Adapt to all cases that are still new, beginning with the one in view, with the "
            "model and the method chosen. You can review meanwhile."
        )
        self.ahead_button.setEnabled(state != "off")
        self.carry.setEnabled(state == "idle")
        self._ahead = words
        self.say("")

    def say(self, words: str) -> None:
        """Say something at the foot; "" for what the worker ahead does."""
        self.said.say(words or self._ahead)

    def dragEnterEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Take files and folders."""
        if event.mimeData().hasUrls():
            event.acceptProposedAction()

    def dropEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Make a list of what was dropped."""
        event.acceptProposedAction()
        self.dropped.emit(event.mimeData())

    # --- inside ------------------------------------------------------------------------------

    def _on_choice(self, *_: Any) -> None:
        if self._quiet:
            return
        self.model.choose(*self.choices())
        self.show_place(self.model.current)
        self._say_nothing()
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
            self.case_wanted.emit(row.key)

    def _redraw(self) -> None:
        port = self.view.viewport()
        if port is not None:
            port.update()


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
