"""A model's card as a user reads it, and the window in which a model is added."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment
from qtpy.QtCore import QMimeData, Qt, Signal
from qtpy.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QLabel,
    QTextBrowser,
    QVBoxLayout,
    QWidget,
)

from napari_grata.scans import ScanError
from napari_grata.segmenters import ModelError
from napari_grata.segmenters.loaders import WeightsError, loader_for
from napari_grata.widgets.background import Found, Queue, describe
from napari_grata.widgets.context import Context
from napari_grata.widgets.qt_parts import button, choice, line_in, row
from napari_grata.widgets.scan_layer import free_name, scan_layers
from napari_grata.widgets.theme import ThemeColours

if TYPE_CHECKING:
    from napari_grata.segmenters.card import Card

CARD_FILE, WEIGHTS_FILE = "card.yaml", "weights.safetensors"
CHECKPOINTS = (".pth", ".pt")
INVITATION = (
    "Drop a model here: a folder that nnU-Net trained, a MONAI bundle, a folder with card.yaml "
    "and weights, or a published GraTa or VPTTA checkpoint (.pth)."
)
# Figures whose names a reader should not have to guess; others are shown by their own names.
_FIGURES = {
    "dice_mean": "Dice",
    "dice_worst_tenth": "worst tenth",
    "hd95_mean": "HD95",
    "assd_mean": "ASSD",
}
_TEMPLATE = """
{%- macro section(title, words) -%}
{% if words %}<p style="margin: 10px 0 2px 0"><b>{{ title }}</b></p>
<p style="margin: 0">{{ words | lines }}</p>{% endif %}
{%- endmacro -%}
{% if error %}<p style="color: {{ colours.wrong }}"><b>This model cannot be used.</b><br>
{{ error | lines }}</p>{% endif %}
{% if not card %}{% if not error %}<p>No model is chosen.</p>{% endif %}{% else %}
<h3>{{ card.title }}</h3>
<p style="color: {{ colours.muted }}">{{ card.name }}, version {{ card.version }}</p>
<p>{{ card.task | lines }}</p>
<p style="margin: 10px 0 2px 0"><b>Finds</b></p>
<table>{% for item in card.structures %}<tr>
<td><span style="color: {{ item.colour }}">■</span>&nbsp;</td><td>{{ item.name }}&nbsp;&nbsp;</td>
<td><span style="color: {{ colours.muted }}">value {{ item.value }}
{%- if item.inside %}, inside the {{ item.inside }}{% endif %}</span></td>
</tr>{% endfor %}</table>
{{ section("Reads", reads) }}
{{ section("Source centre", card.source_centre) }}
<p style="margin: 10px 0 2px 0"><b>Trained on</b></p>
{% for entry in card.training_data %}<p style="margin: 0 0 4px 0">{{ entry.name | lines }}
{% for key, value in entry.items() if key != "name" %}<br>
<span style="color: {{ colours.muted }}">{{ key }}: {{ value | lines }}</span>{% endfor %}</p>
{% endfor %}
<p style="margin: 10px 0 2px 0"><b>How good it is at home</b></p>
{% for where, rows in results %}<p style="margin: 0; color: {{ colours.muted }}">{{ where }}</p>
<table cellspacing="2">{% for structure, figures in rows %}<tr><td>{{ structure }}&nbsp;&nbsp;</td>
<td>{{ figures }}</td></tr>{% endfor %}</table>
{% else %}<p style="margin: 0">No figures are given.</p>{% endfor %}
{% for command in commands %}<p style="margin: 2px 0 0 0; color: {{ colours.muted }}">
Measured by <code>{{ command }}</code></p>{% endfor %}
{{ section("Shift is judged against", home) }}
{{ section("Meant for", card.intended_use) }}
{{ section("Limits", card.limits) }}
{{ section("Terms", card.licence) }}
{% if card.weights_sha256 %}<p style="color: {{ colours.muted }}; margin-top: 10px">
{{ card.architecture }}, weights {{ card.weights_sha256[:12] }}…</p>{% endif %}
{% endif %}
"""


def card_html(card: Card | None, colours: ThemeColours, *, error: str = "") -> str:
    """Return a card as rich text (the subset that Qt knows), everything escaped.

    Parameters
    ----------
    card : Card or None
    colours : ThemeColours
    error : str
        Why the model cannot be used; shown first.
    """
    from markupsafe import Markup, escape

    environment = Environment(autoescape=True)
    environment.filters["lines"] = lambda text: Markup("<br>").join(
        escape(line) for line in str(text).strip().splitlines()
    )
    values: dict[str, Any] = {"card": card, "colours": colours, "error": error}
    if card is not None:
        results, commands = _results(card.results)
        values.update(reads=_reads(card), home=_home(card), results=results, commands=commands)
    return environment.from_string(_TEMPLATE).render(**values)


def _reads(card: Card) -> str:
    words = card.reads()
    if card.spacing is not None:
        words += f", resampled to {card.spacing[0]:g} × {card.spacing[1]:g} mm a pixel"
    elif card.size is not None:
        words += f", resampled to {card.size[0]} × {card.size[1]} pixels"
    return words[:1].upper() + words[1:] + "."


def _home(card: Card) -> str:
    """Return what the gauge compares a scan with."""
    if card.shift is None:
        return ""
    seen = f" {card.shift.seen} of them trained the model." if card.shift.seen else ""
    return f"{card.shift.scans} scans: {card.shift.measured_on}.{seen}"


def _results(
    entries: Any,
) -> tuple[list[tuple[str, list[tuple[str, str]]]], list[str]]:
    """Return figures by structure, under the centre they were measured on; commands once."""
    groups: dict[str, list[tuple[str, str]]] = {}
    commands: list[str] = []
    for entry in entries:
        figures, where = [], []
        for key, value in entry.items():
            if key == "command":
                if str(value) not in commands:
                    commands.append(str(value))
            elif key in ("structure", "unit") or key.endswith("_full_precision"):
                continue
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                figures.append(_figure(key, value, entry))
            else:
                where.append(str(value))
        structure = str(entry.get("structure", ""))
        groups.setdefault(", ".join(where), []).append((structure, " · ".join(figures)))
    return list(groups.items()), commands


def _figure(key: str, value: float, entry: Mapping[str, Any]) -> str:
    """Return ``"Dice 91.3"``, or for counts ``"1 volume"``."""
    if key in ("n", "slices"):
        noun = str(entry.get("unit") or "cases") if key == "n" else key
        return f"{value} {noun.removesuffix('s') if value == 1 else noun}"
    number = str(value) if isinstance(value, int) else f"{value:.3g}"
    return f"{_FIGURES.get(key, key.replace('_', ' '))} {number}"


class _Dialog(QDialog):
    """A window of its own beside the viewer, which stays usable."""

    def __init__(self, title: str, body: QWidget, context: Context) -> None:
        super().__init__(context.widget)
        self.setWindowTitle(title)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        buttons.rejected.connect(self.reject)
        layout = QVBoxLayout(self)
        layout.addWidget(body, 1)
        layout.addWidget(buttons)


def show_card(context: Context) -> QDialog:
    """Open a window with the card of the chosen model; links in it are only text."""
    entry, colours = context.entry, context.theme
    view = QTextBrowser()
    view.setOpenLinks(False)
    view.setAccessibleName("Model card")
    card = entry.card if entry is not None else None
    error = (entry.error if entry is not None else "") or ""
    view.setHtml(card_html(card, colours, error=error))
    view.setStyleSheet(
        f"QTextBrowser {{background: {colours.background}; color: {colours.text};"
        f" border: 1px solid {colours.grid};}}"
    )
    dialog = _Dialog(card.title if card else "Model", view, context)
    dialog.resize(480, 560)
    dialog.show()
    return dialog


def choose_images(context: Context) -> QDialog:
    """Open a window in which the images that a model reads together are chosen from the layers.

    They become a layer of their own, which shows the first of them.
    """
    names = context.entry.card.inputs if context.entry and context.entry.card else ()
    layers = scan_layers(context.viewer)
    layers.sort(key=lambda layer: layer is not context.layer)  # the one in view comes first
    body, words = QWidget(), QLabel("They have to lie on one grid.")
    words.setWordWrap(True)
    boxes = [choice(f"The layer that holds {name}.", name) for name in names]
    for number, box in enumerate(boxes):
        box.addItems([layer.name for layer in layers])
        box.setCurrentIndex(min(number, len(layers) - 1))
    dialog = _Dialog("Images that are read together", body, context)

    def read() -> None:
        chosen = [layers[box.currentIndex()] for box in boxes]
        scans = [context.sessions.scan(layer)[0] for layer in chosen]
        if len({id(layer) for layer in chosen}) < len(chosen) or None in scans:
            words.setText("Choose another layer for each image; open those that are missing.")
            return
        first, *others = (scan for scan in scans if scan is not None)
        try:
            whole = first.together(others)
        except ScanError as error:
            words.setText(str(error))
            return
        context.add_scan(whole, name=free_name(context.viewer, " + ".join(names)))
        dialog.accept()

    layout = QVBoxLayout(body)
    for name, box in zip(names, boxes, strict=True):
        layout.addWidget(row(name, box))
    layout.addWidget(words)
    layout.addWidget(button("Read together", "Make a layer of these images.", clicked=read))
    dialog.show()
    return dialog


# --- adding a model --------------------------------------------------------------------------


def model_path(path: Path) -> Path | None:
    """Return what to add if a path looks like a model, None otherwise."""
    if path.is_dir():
        try:
            return path if (path / CARD_FILE).is_file() or loader_for(path) else None
        except WeightsError:
            return None
        except ModelError:
            return path  # one that is not complete: adding it says what is missing
    if path.name in (CARD_FILE, WEIGHTS_FILE):
        return path.parent
    return path if path.suffix.lower() in CHECKPOINTS and path.is_file() else None


def dropped_models(mime: QMimeData | None) -> list[Path]:
    """Return the models among what is dragged; empty if there are none."""
    if mime is None or not mime.hasUrls():
        return []
    local = (Path(url.toLocalFile()) for url in mime.urls() if url.isLocalFile())
    found = (model_path(path) for path in local)
    return list(dict.fromkeys(path for path in found if path is not None))


def add_model_dialog(context: Context, paths: list[Path] | None = None) -> QDialog:
    """Open the window in which a model is added; it stays open to show what came of it."""
    field = AddModel(context)
    dialog = _Dialog("Add a model", field, context)
    dialog.resize(420, 240)
    dialog.show()
    for path in paths or []:
        field.add(path)
    return dialog


class AddModel(QWidget):
    """A place to drop a model, with two buttons for those who do not drag.

    A model is checked and copied in the background; the models directory gets a complete, checked
    model or nothing.

    Signals
    -------
    added(ModelEntry)
        The model can be chosen from now on.
    """

    added = Signal(object)

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._wrong = False
        self._queue = Queue("add-model", self)
        self._queue.found.connect(self._on_found)
        context.connections.at_end(self._queue.ender(finish=True))
        self.setAcceptDrops(True)
        self.words = QLabel(INVITATION)
        self.words.setObjectName("grata_drop")
        self.words.setWordWrap(True)
        self.words.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.words.setMinimumHeight(90)
        self.words.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.words, 1)
        buttons = line_in(layout)
        buttons.addWidget(button("Folder …", "Choose a model folder.", clicked=self._ask_folder))
        buttons.addWidget(
            button(
                "Checkpoint …",
                "Choose a published .pth file; it is converted, never run.",
                clicked=self._ask_file,
            )
        )
        buttons.addStretch(1)
        self._frame(over=False)

    def add(self, path: Path) -> None:
        """Check a model and copy it to the user's models."""
        self._say(f"Checking {path.name} …")
        self._queue.ask(path, lambda: _add(path))

    def _on_found(self, found: Found) -> None:
        if found.error is not None:
            self._say(describe(found.error), wrong=True)
        else:
            self._say(f"{found.result.title} was added and can be chosen now.")
            self._context.reload_models(found.result.name)
            self.added.emit(found.result)

    def _ask_folder(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Model folder")
        if name:
            self.add(Path(name))

    def _ask_file(self) -> None:
        name, _ = QFileDialog.getOpenFileName(
            self, "Published checkpoint", "", "GraTa or VPTTA checkpoint (*.pth *.pt)"
        )
        if name:
            self.add(Path(name))

    def _say(self, words: str, *, wrong: bool = False) -> None:
        self._wrong = wrong
        self.words.setText(words)
        self._frame(over=False)

    def _frame(self, *, over: bool) -> None:
        colours = self._context.theme
        edge = colours.accent if over else colours.grid
        ink = colours.wrong if self._wrong else colours.muted
        self.words.setStyleSheet(
            f"QLabel#grata_drop {{border: 2px dashed {edge}; border-radius: 4px;"
            f" padding: 8px; color: {ink};}}"
        )

    def dragEnterEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Take models, leave everything else to the viewer."""
        if dropped_models(event.mimeData()):
            event.acceptProposedAction()
            self._frame(over=True)

    def dragLeaveEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Show that nothing would be dropped."""
        super().dragLeaveEvent(event)
        self._frame(over=False)

    def dropEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Add what was dropped, one after the other."""
        for path in dropped_models(event.mimeData()):
            self.add(path)
        event.acceptProposedAction()


def _add(path: Path) -> Any:
    """Check and copy a model. In a thread: a checkpoint pulls in torch."""
    from napari_grata.segmenters.registry import add_model

    return add_model(path)
