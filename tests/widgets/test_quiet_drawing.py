"""What is drawn less often is still drawn in full."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QLabel, QSizePolicy, QVBoxLayout, QWidget

from napari_grata.adaptation.records import Record
from napari_grata.widgets.parts import Still, scrolling
from napari_grata.widgets.plots import CurvesPlot
from napari_grata.widgets.slice_rows import SliceRow
from napari_grata.widgets.slice_table import SliceTable

MASK = np.zeros((4, 4), dtype=np.uint8)


def record(step: int) -> Record:
    return Record(
        phase="adapt",
        step=step,
        done=step,
        total=20,
        slice_index=step,
        case=0,
        pass_index=0,
        source_mask=MASK,
        adapted_mask=MASK,
        cosine=float(np.sin(step)),
        learning_rate=1e-4,
        auxiliary_loss=0.5,
        pseudo_loss=0.02,
    )


class Requests(QObject):
    """Counts a widget's wishes to be laid out."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802 - Qt
        if event.type() == QEvent.Type.LayoutRequest:
            self.count += 1
        return False


def held(qtbot: Any) -> tuple[QWidget, Still, QLabel]:
    label = QLabel("one")
    inner, outer = QWidget(), QWidget()
    QVBoxLayout(inner).addWidget(label)
    still = Still(inner)
    QVBoxLayout(outer).addWidget(still)
    qtbot.addWidget(outer)
    outer.resize(300, 400)
    with qtbot.waitExposed(outer):
        outer.show()
    qtbot.wait(50)
    return outer, still, label


def test_other_words_of_the_same_size_lay_nothing_out_beyond(qtbot: Any) -> None:
    outer, still, label = held(qtbot)
    label.setText("two")
    label.setFixedHeight(20)
    label.setMinimumWidth(60)
    qtbot.wait(50)
    requests = Requests()
    outer.installEventFilter(requests)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
    qtbot.wait(50)
    before = requests.count
    label.setText("quite other words")
    qtbot.wait(50)
    assert requests.count == before
    label.setFixedHeight(200)
    qtbot.waitUntil(lambda: requests.count > before)
    assert still.minimumSizeHint().height() >= 200


def test_what_is_held_still_fills_all_the_room(qtbot: Any) -> None:
    _outer, still, label = held(qtbot)
    assert still.height() > 350
    inner = label.parentWidget()
    assert inner is not None
    assert inner.size() == still.size()
    # Otherwise napari would add empty room below.
    assert still.sizePolicy().verticalPolicy() == QSizePolicy.Policy.Expanding


def test_a_table_out_of_view_has_all_rows_when_asked_and_when_scrolled_to(qtbot: Any) -> None:
    table, tall = SliceTable(), QWidget()
    tall.setFixedHeight(1500)
    area = scrolling(tall, table)
    qtbot.addWidget(area)
    area.resize(360, 300)
    with qtbot.waitExposed(area):
        area.show()
    rows = [SliceRow(i, f"slice {i}", {"a": 1}, {"a": 2}, None, {"a": 0.5}) for i in range(4)]
    table.set_structures({"a": "#56B4E9"})
    for row in rows[:2]:
        table.update_row(row)
    assert [row.slice_index for row in table.model.rows] == [0, 1]
    for row in rows[2:]:
        table.update_row(row)
    qtbot.wait(500)
    assert table._model.rowCount() == 2, "nothing is drawn that nobody sees"
    area.ensureWidgetVisible(table)
    qtbot.waitUntil(lambda: table._model.rowCount() == 4)


def test_curves_drawn_ahead_look_as_curves_drawn_at_once(qtbot: Any) -> None:
    plot = CurvesPlot()
    qtbot.addWidget(plot)
    plot.resize(340, 260)
    with qtbot.waitExposed(plot):
        plot.show()
    plot.set_records(record(step) for step in range(1, 20))
    seen = []
    plot.drawn.connect(lambda: seen.append(1))
    qtbot.waitUntil(lambda: bool(seen))
    canvas = plot._canvas
    ahead = canvas._draw_picture().toImage()
    canvas.forget_picture()
    at_once = canvas.viewport().grab().toImage()
    assert np.mean(pixels(ahead) != pixels(at_once)) < 0.01


def pixels(image: Any) -> np.ndarray:
    image = image.convertToFormat(image.Format.Format_RGB32)
    bits = image.constBits()
    bits.setsize(image.sizeInBytes())
    return np.frombuffer(bytes(bits), dtype=np.uint8)
