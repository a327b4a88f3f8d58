"""The list's model: rows that pass the filter, in order, without a view."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from qtpy.QtCore import QAbstractListModel, QModelIndex, Qt

from napari_grata.widgets.cases.rows import CaseRow, arrange
from napari_grata.widgets.theme import tip

ROW_ROLE = int(Qt.ItemDataRole.UserRole) + 1


class CaseModel(QAbstractListModel):
    """Cases as they pass the filter, sorted by the model itself with plain keys.

    The case in view is always listed, and where it stood when it came into view: otherwise it
    would vanish from under the reader's hands, or take "next" along to the end of the list, as
    soon as it is decided on.
    """

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._all: dict[str, CaseRow] = {}
        self._rows: list[CaseRow] = []
        self._place: dict[str, int] = {}
        self._filter, self._text, self._order = "all", "", "list"
        self._current: str | None = None
        self._anchor: CaseRow | None = None

    # --- what the panel calls ----------------------------------------------------------------

    @property
    def rows(self) -> Sequence[CaseRow]:
        """The rows in the order shown."""
        return self._rows

    @property
    def total(self) -> int:
        """Number of cases, shown or not."""
        return len(self._all)

    @property
    def current(self) -> str | None:
        """Code of the case in view."""
        return self._current

    def row(self, key: str) -> CaseRow | None:
        """Return the line of a case, shown or not."""
        return self._all.get(key)

    def place_of(self, key: str | None) -> int | None:
        """Return where a case stands, None if it is not shown."""
        return None if key is None else self._place.get(key)

    def set_rows(self, rows: Iterable[CaseRow]) -> None:
        """Replace all rows."""
        self.beginResetModel()
        self._all = {row.key: row for row in rows}
        self._anchor = self._all.get(self._current or "")
        self._arrange()
        self.endResetModel()

    def set_current(self, key: str | None) -> None:
        """Mark the case in view."""
        before, self._current = self._current, key
        self._anchor = self._all.get(key or "")
        self._rearrange()
        for case in (before, key):
            self._tell(case)

    def choose(self, filtered: str, text: str, order: str) -> None:
        """Filter by state and text, and sort."""
        if (filtered, text, order) != (self._filter, self._text, self._order):
            self._filter, self._text, self._order = filtered, text, order
            self._anchor = self._all.get(self._current or "")
            self.beginResetModel()
            self._arrange()
            self.endResetModel()

    def update_rows(self, rows: Iterable[CaseRow]) -> None:
        """Take new lines of some cases, all at once."""
        changed = [row for row in rows if self._all.get(row.key) != row]
        if not changed:
            return
        self._all.update((row.key, row) for row in changed)
        for row in changed:
            place = self._place.get(row.key)
            if place is not None:
                self._rows[place] = row
        self._rearrange()
        for row in changed:
            self._tell(row.key)

    def step(self, key: str | None, by: int) -> str | None:
        """Return the case after (1) or before (−1) one in the order shown; None at the end."""
        if not self._rows:
            return None
        place = self.place_of(key)
        if place is None:
            return self._rows[0 if by > 0 else -1].key
        there = place + by
        return self._rows[there].key if 0 <= there < len(self._rows) else None

    # --- inside ------------------------------------------------------------------------------

    def _wanted(self) -> list[CaseRow]:
        everything = dict(self._all)
        if self._anchor is not None:
            everything[self._anchor.key] = self._anchor
        rows = arrange(list(everything.values()), self._filter, self._text, self._order)
        if self._anchor is not None and self._anchor not in rows:
            keys = {row.key for row in rows} | {self._anchor.key}
            rows = arrange([everything[key] for key in keys], "all", "", self._order)
        return [self._all[row.key] for row in rows]

    def _arrange(self) -> None:
        self._rows = self._wanted()
        self._place = {row.key: place for place, row in enumerate(self._rows)}

    def _rearrange(self) -> None:
        """Put rows in order again where that changes anything; the view keeps its selection."""
        wanted = self._wanted()
        if [row.key for row in wanted] == [row.key for row in self._rows]:
            self._rows = wanted
            return
        same = len(wanted) == len(self._rows)
        if not same:
            self.beginResetModel()
            self._arrange()
            self.endResetModel()
            return
        self.layoutAboutToBeChanged.emit()
        held = self.persistentIndexList()
        keys = [self._rows[index.row()].key for index in held]
        self._arrange()
        moved = [
            self.index(self._place[key], 0) if key in self._place else QModelIndex() for key in keys
        ]
        self.changePersistentIndexList(held, moved)
        self.layoutChanged.emit()

    def _tell(self, key: str | None) -> None:
        place = self.place_of(key)
        if place is not None:
            index = self.index(place, 0)
            self.dataChanged.emit(index, index)

    def picture_came(self, key: str) -> None:
        """Draw a row anew: its picture is there now."""
        self._tell(key)

    # --- Qt's side -----------------------------------------------------------------------------

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802 - Qt's name
        """Return the number of cases shown."""
        return 0 if parent is not None and parent.isValid() else len(self._rows)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return what a line shows."""
        if not index.isValid() or index.row() >= len(self._rows):
            return None
        row = self._rows[index.row()]
        if role == ROW_ROLE:
            return row
        if role == Qt.ItemDataRole.DisplayRole:
            return row.title
        if role == Qt.ItemDataRole.ToolTipRole:
            return tip(row.sentence)
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return row.sentence.replace("\n", " ")
        return None
