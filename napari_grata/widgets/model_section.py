"""Step *Model*: which model, its card, where it runs, and how far the scan is from its source."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from functools import partial
from gc import freeze, unfreeze
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QPointF, QRectF, QSize, Qt, QTimer
from qtpy.QtGui import QColor, QPainter, QPen
from qtpy.QtWidgets import QFileDialog, QMenu, QSizePolicy, QToolTip, QWidget

from napari_grata.adaptation.shift import why_not
from napari_grata.segmenters.card import CARD_FILE, WEIGHTS_FILE, ModelError, lacking
from napari_grata.segmenters.loaders import WeightsError, loader_for, model_path
from napari_grata.segmenters.registry import ModelEntry, add_model
from napari_grata.widgets.background import Found, describe
from napari_grata.widgets.context import Context
from napari_grata.widgets.model_card import ask_missing, choose_images, show_card
from napari_grata.widgets.qt_parts import (
    Sentence,
    ask_folder,
    button,
    choice,
    column_in,
    later,
    menu_entry,
    notify,
    row,
)
from napari_grata.widgets.theme import tip

if TYPE_CHECKING:
    from napari_grata.adaptation.shift import Shift
    from napari_grata.scans import Scan
    from napari_grata.segmenters import DeviceChoice
    from napari_grata.widgets.tasks import Engine, Region

_SETTLE_MS = 250
_LOAD_TORCH_MS = 300
_ABOUT = (
    "How much this scan looks, to the model, like scans of the centre that it was trained at. "
    "Left of the first mark: like those. Right of the second: far from them. It says nothing "
    "about whether the masks are right: look at them in any case."
)


class ModelSection(QWidget):
    """Model with its card at hand, device, and the gauge of shift."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self.combo = choice("The model as it was trained, at its own centre.", "Model")
        self.card_button = button(
            "Card",
            "What the model was trained on, how good it is, and its limits.",
            small=True,
            clicked=partial(show_card, context),
        )
        self.add_button = button(
            "Add …",
            "Add a model: a folder that nnU-Net trained, a MONAI bundle, a folder with card.yaml "
            "and weights, or a published .pth file. Dropping it on the dock does the same.",
            small=True,
        )
        self.images_button = button(
            "Images …",
            "Choose the images that this model reads together, from the layers.",
            small=True,
            clicked=partial(choose_images, context),
        )
        menu = QMenu(self.add_button)
        self.add_button.setMenu(menu)
        menu_entry(menu, "A model folder …", self._ask_folder)
        menu_entry(menu, "A published checkpoint …", self._ask_file)
        self.device = choice(name="Run on", entries=[("Automatic", "auto")])
        self.shift = ShiftGauge(context)
        layout = column_in(
            self, row("", self.combo, self.images_button, self.card_button, self.add_button)
        )
        layout.addWidget(
            row(
                "Run on",
                self.device,
                tip="Where the computing happens. Automatic takes a graphics processor where "
                "there is one.",
            )
        )
        layout.addWidget(self.shift)
        self.combo.activated.connect(self._on_model)
        self.device.activated.connect(self._on_device)
        context.model_changed.connect(self._show_models)
        context.changed.connect(self.refresh)
        self._show_models()
        # Once the dock stands: importing torch takes seconds, and the user is still looking.
        QTimer.singleShot(_LOAD_TORCH_MS, self._look_for_devices)

    def _on_model(self, index: int) -> None:
        self._context.choose_model(str(self.combo.itemData(index)))

    def _on_device(self, _index: int) -> None:
        self._context.choose_device(str(self.device.currentData()))

    # --- adding a model ----------------------------------------------------------------------

    def _ask_folder(self) -> None:
        name = ask_folder(self, "", "Model folder")
        self.add([Path(name)] if name else [])

    def _ask_file(self) -> None:
        endings = "GraTa or VPTTA checkpoint (*.pth *.pt)"
        name, _ = QFileDialog.getOpenFileName(self, "Published checkpoint", "", endings)
        self.add([Path(name)] if name else [])

    def add(self, paths: list[Path]) -> None:
        """Check models and copy them to the user's, in the background; complete, or not at all."""
        for path in paths:
            self._context.clear_problem()
            self._context.say(f"Checking {path.name} …")
            self._context.queue.ask(("add", path), partial(add_model, path), self._on_added)

    def _on_added(self, found: Found) -> None:
        if found.error is not None:
            notify(describe(found.error))
            self._context.fail(describe(found.error), found.details)
            return
        known = any(one.folder == found.result.folder for one in self._context.entries)
        if lacking(found.result.card) and not known:
            ask_missing(self._context, found.result, self._take)
        else:
            self._take(found.result)

    def _take(self, entry: ModelEntry) -> None:
        """Choose a model that was added, and show what it says of the slice in view."""
        context = self._context
        context.reload_models(entry.name)
        card, scan = entry.card, context.scan
        if (
            card is not None
            and scan is not None
            and card.fits(scan) is None
            and not context.runner.busy
        ):
            context.runner.segment(in_view=True)
        context.say(f"{entry.title} was added and can be chosen now.")

    # --- devices -----------------------------------------------------------------------------

    def _look_for_devices(self) -> None:
        self._context.queue.ask(("model", "devices"), _list_devices, self._on_devices)

    def _on_devices(self, found: Found) -> None:
        if found.error is not None:
            self._context.fail(f"torch cannot be loaded, so no model can run: {found.error}")
            return
        devices: list[DeviceChoice] = found.result
        self.device.clear()
        for one in devices:
            self.device.addItem(one.title, one.key)
        self.device.setCurrentIndex(max(0, self.device.findData(self._context.device)))
        self._context.devices = devices
        # napari collects garbage after each layer that is taken out. Through all of torch that
        # stood still for 0.35 s, and without what has been loaded by now for 0.06 s.
        freeze()
        self._context.connections.at_end(unfreeze)
        self._context.touch()

    def _show_models(self) -> None:
        """Offer the models; unusable ones are listed, greyed, with the reason on hover."""
        self.combo.clear()
        for index, entry in enumerate(self._context.entries):
            self.combo.addItem(entry.title, entry.name)
            words = entry.error or (entry.card.task if entry.card else "")
            self.combo.setItemData(index, words, Qt.ItemDataRole.ToolTipRole)
            if entry.card is None:
                model: Any = self.combo.model()
                item = model.item(index)
                item.setEnabled(False)
                item.setText(f"{entry.title} (cannot be used)")
        chosen = self._context.entry
        self.combo.setCurrentIndex(self.combo.findData(chosen.name) if chosen is not None else -1)
        if not self._context.entries:
            self.combo.setPlaceholderText("no model yet")

    def refresh(self) -> None:
        """Bring the controls in line with the situation."""
        idle = self._context.runner.kind is None
        for widget in (self.combo, self.device, self.add_button):
            widget.setEnabled(idle)
        card = self._context.entry.card if self._context.entry is not None else None
        self.images_button.setVisible(bool(card is not None and card.inputs))
        self.images_button.setEnabled(idle and self._context.scan is not None)


def models_among(paths: list[str]) -> list[Path]:
    """Return the models among files and folders, each once."""
    found = [Path(path) for path in paths]
    return list(dict.fromkeys(model_path(path) for path in found if _is_model(path)))


def _is_model(path: Path) -> bool:
    if not path.is_dir():
        return path.name in (CARD_FILE, WEIGHTS_FILE) or path.suffix.lower() in (".pth", ".pt")
    try:
        return (path / CARD_FILE).is_file() or bool(loader_for(path))
    except WeightsError:
        return False
    except ModelError:
        return True  # one that is not complete: adding it says what is missing


def _list_devices() -> list[DeviceChoice]:
    import torch  # noqa: F401 - the point of this thread

    import napari_grata.segmenters.segmenter  # noqa: F401
    from napari_grata.segmenters import list_devices

    return list_devices()


# --- shift -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Wish:
    """What is to be measured: model, device, case and region or frame of one scan."""

    model: Path
    weights: str
    device: str
    case: int
    region: Region | None


class _Stopped(Exception):  # noqa: N818 - no error
    """The measurement is not wanted any more."""


class ShiftGauge(QWidget):
    """Measures the photograph or volume in view whenever nothing else runs, and remembers it."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._known: weakref.WeakKeyDictionary[Scan, dict[_Wish, Any]] = weakref.WeakKeyDictionary()
        self._stop = threading.Event()
        self.gauge = Gauge(context)
        self.sentence = Sentence(2, "grata_small")
        layout = column_in(self, spacing=1)
        layout.addWidget(row("Shift", self.gauge, tip=tip(_ABOUT)))
        layout.addWidget(self.sentence)
        self._soon = later(self, _SETTLE_MS, self._measure)
        for signal in (
            context.scan_changed,
            context.model_changed,
            context.region_changed,
            context.slice_changed,
            context.runner.changed,
            context.changed,
        ):
            signal.connect(self.refresh)
        context.connections.at_end(self._stop.set)
        self.refresh()

    def refresh(self, *_: Any) -> None:
        """Show what is known; what is not is measured once things have settled."""
        wish, words = self._wish()
        scan = self._context.scan
        known = self._known.get(scan, {}).get(wish) if scan is not None and wish else None
        if known is not None:
            self._show(known if not isinstance(known, Exception) else None, _words(known))
            return
        busy = self._context.runner.kind is not None
        if wish is not None:
            words = (
                "The distance from the source centre is measured after the work in progress."
                if busy
                else "Looking how far this scan is from the source centre …"
            )
            if not busy:
                self._soon.start()
        self._show(None, words)

    def _wish(self) -> tuple[_Wish | None, str]:
        """Return what should be measured now, or why nothing can be."""
        context = self._context
        scan, entry = context.scan, context.entry
        if scan is None or entry is None or entry.card is None:
            return None, ""
        if entry.card.fits(scan) is not None:
            return None, "This model does not read this scan."
        problem = why_not(entry.card)
        if problem is not None:
            return None, problem
        case, region, session = scan.case_of(context.in_view()), context.region, context.session
        if region is None and session is not None and not session.busy:
            region = session.frame_of(context.in_view())  # what the model reads, once it is found
        weights = str(entry.card.weights_sha256)
        return _Wish(entry.folder, weights, context.device, case, region), ""

    def _measure(self) -> None:
        wish, _ = self._wish()
        context = self._context
        scan = context.scan
        if wish is None or scan is None or context.runner.kind is not None:
            return  # the runner's end asks again
        if wish in self._known.get(scan, {}) or context.devices is None:
            return
        key = ("shift", id(scan), wish)
        if context.queue.wanted(key):
            return
        measure = partial(_measure_shift, context.runner.engine, scan, wish, self._stop)
        context.queue.ask(key, measure, partial(self._on_found, weakref.ref(scan), wish))

    def _on_found(self, of: weakref.ref[Scan], wish: _Wish, found: Found) -> None:
        scan = of()
        if scan is not None:
            self._known.setdefault(scan, {})[wish] = found.error or found.result
        self.refresh()

    def _show(self, shift: Shift | None, words: str) -> None:
        entry = self._context.entry
        reference = entry.card.shift if entry is not None and entry.card is not None else None
        place = None
        if shift is not None and reference is not None:
            place = place_of(shift.score, reference.near, reference.far)
        self.gauge.put(place, shift.level if shift is not None else "")
        self.sentence.say(words)
        self.gauge.setAccessibleDescription(words)
        lines = [words if shift is not None else "", _ABOUT, shift.more if shift else ""]
        self.gauge.setToolTip(tip("\n".join(line for line in lines if line)))
        level = f"{shift.level} shift" if shift is not None else ""
        if level != self._context.shift:
            self._context.shift = level
            self._context.touch()


def _words(known: Any) -> str:
    return describe(known) if isinstance(known, Exception) else str(known.words)


def _measure_shift(engine: Engine, scan: Scan, wish: _Wish, stop: threading.Event) -> Shift:
    from napari_grata.adaptation.shift import ShiftError, measure_case

    def between() -> None:
        if stop.is_set():
            raise _Stopped

    segmenter = engine.get(wish.model, wish.device)
    found = measure_case(segmenter, scan, wish.case, wish.region, between=between)
    if found is None:
        raise ShiftError("This part of the scan shows nothing to measure.")
    return found


_HEIGHT, _MARGIN = 20, 9.0
_EDGE_AT, _FAR_AT = 0.4, 0.68


class Gauge(QWidget):
    """A line from home (a ring at the left) to far away, with a cross where something lies.

    The two thresholds are small ticks. The level shows in the cross's colour and in its size, so
    that it can be told without colours.
    """

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._place: float | None = None
        self._level = ""
        self.setAccessibleName("Distance from the source centre")
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return a line's height."""
        return QSize(160, _HEIGHT)

    def put(self, place: float | None, level: str) -> None:
        """Put the cross at a place, 0 … 1; None: nowhere."""
        self._place, self._level = place, level
        self.update()

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Show the tooltip on Space and Return, for those who use no mouse."""
        if event.key() in (Qt.Key.Key_Space, Qt.Key.Key_Return, Qt.Key.Key_Enter):
            QToolTip.showText(self.mapToGlobal(self.rect().bottomLeft()), self.toolTip(), self)
            return
        super().keyPressEvent(event)

    def paintEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Draw line, ring, ticks and cross."""
        colours, painter = self._context.theme, QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        middle, width = self.height() / 2, self.width() - 2 * _MARGIN
        ink = QColor(colours.muted if self._place is not None else colours.grid)

        def at(place: float) -> float:
            return _MARGIN + place * width

        painter.setPen(QPen(ink, 1.2))
        painter.drawLine(QPointF(at(0) + 4, middle), QPointF(at(1), middle))
        painter.drawEllipse(QPointF(at(0), middle), 4.0, 4.0)
        for place in (_EDGE_AT, _FAR_AT):
            painter.drawLine(QPointF(at(place), middle - 4), QPointF(at(place), middle + 4))
        if self._place is not None:
            half = {"near": 4.0, "moderate": 5.0, "far": 6.0}.get(self._level, 4.0)
            ink_of = {"moderate": colours.attention, "far": colours.wrong}
            x = at(self._place)
            pen = QPen(QColor(ink_of.get(self._level, colours.text)))
            pen.setWidthF(2.4 if self._level == "near" else 3.0)
            painter.setPen(pen)
            painter.drawLine(QPointF(x - half, middle - half), QPointF(x + half, middle + half))
            painter.drawLine(QPointF(x - half, middle + half), QPointF(x + half, middle - half))
        if self.hasFocus():
            painter.setPen(QPen(QColor(colours.accent), 1))
            painter.drawRoundedRect(QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5), 3, 3)
        painter.end()


def place_of(score: float, near: float, far: float) -> float:
    """Return where a score stands on the line, 0 … 1.

    Up to ``near`` is home, the first two fifths; beyond ``far`` the line grows ever slower towards
    its end.
    """
    score = max(0.0, score)
    if score <= near:
        return _EDGE_AT * score / near
    if score <= far:
        return _EDGE_AT + (_FAR_AT - _EDGE_AT) * (score - near) / max(far - near, 1e-9)
    beyond = (score - far) / far
    return _FAR_AT + (1 - _FAR_AT) * beyond / (1 + beyond)
