"""A model's card as a user reads it, and the choice of images that it reads together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from jinja2 import Environment
from qtpy.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QLabel,
    QLineEdit,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_grata.scans import ScanError
from napari_grata.segmenters.card import CardError, lacking, write_card
from napari_grata.segmenters.card_fields import HINTS
from napari_grata.segmenters.registry import ModelEntry, remove_model
from napari_grata.widgets.context import Context
from napari_grata.widgets.qt_parts import button, choice, dialog, page, row
from napari_grata.widgets.scan_layer import free_name, scan_layers
from napari_grata.widgets.theme import ThemeColours

if TYPE_CHECKING:
    from napari_grata.segmenters.card import Card

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


def show_card(context: Context) -> QDialog:
    """Open a window with the card of the chosen model; links in it are only text."""
    entry, colours = context.entry, context.theme
    card = entry.card if entry is not None else None
    error = (entry.error if entry is not None else "") or ""
    view = page("Model card", card_html(card, colours, error=error), colours)
    made, _ = dialog(context.widget, card.title if card else "Model", view)
    made.resize(480, 560)
    made.show()
    return made


def ask_missing(context: Context, entry: ModelEntry, take: Callable[[ModelEntry], None]) -> QDialog:
    """Open a window that asks for what the card of a model just added lacks, and for no more.

    Parameters
    ----------
    context : Context
    entry : ModelEntry
        Its card is written anew; cancelled, the model is taken out again.
    take : callable
        What is done with the model then.
    """
    card = entry.card
    assert card is not None
    missing, body, words = lacking(card), QWidget(), QLabel()
    words.setWordWrap(True)
    words.setText("The model does not say this of itself. What is left empty is kept as not said.")
    layout = QVBoxLayout(body)
    layout.addWidget(words)
    lines = {"source_centre": "Centre", "licence": "Terms"}
    fields = {name: QLineEdit() for name in lines if name in missing}
    for name, line in fields.items():
        line.setPlaceholderText(HINTS[name])
        line.setAccessibleName(lines[name])
        layout.addWidget(row(lines[name], line, tip=HINTS[name]))
    columns = ("name", "colour", "inside")
    table = QTableWidget(len(card.structures), len(columns))
    table.setHorizontalHeaderLabels(list(columns))
    table.setAccessibleName("Structures")
    for number, one in enumerate(card.structures):
        for place, column in enumerate(columns):
            table.setItem(number, place, QTableWidgetItem(getattr(one, column) or ""))
    table.setColumnHidden(columns.index("inside"), card.activation == "softmax")
    table.setVisible(any(name.startswith("structures") for name in missing))
    layout.addWidget(table)
    made, buttons = dialog(context.widget, entry.title, body)
    ok, cancel = QDialogButtonBox.StandardButton.Ok, QDialogButtonBox.StandardButton.Cancel
    buttons.clear()
    for each in (ok, cancel):
        buttons.addButton(each)

    def cell(number: int, place: int) -> str:
        found = table.item(number, place)
        return "" if found is None else found.text().strip()

    def keep() -> None:
        answers = {name: line.text().strip() for name, line in fields.items()}
        said: dict[str, Any] = {name: text for name, text in answers.items() if text}
        try:
            structures = tuple(
                replace(one, name=cell(n, 0), colour=cell(n, 1), inside=cell(n, 2) or None)
                for n, one in enumerate(card.structures)
            )
            changed = replace(card, structures=structures, **said)
            write_card(entry.folder, changed)
        except (CardError, OSError) as error:
            words.setText(str(error))
            return
        made.accept()
        take(replace(entry, card=changed))

    buttons.accepted.connect(keep)
    made.rejected.connect(partial(remove_model, entry))
    made.resize(420, made.sizeHint().height())
    made.show()
    return made


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
    made, _ = dialog(context.widget, "Images that are read together", body)

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
        made.accept()

    layout = QVBoxLayout(body)
    for name, box in zip(names, boxes, strict=True):
        layout.addWidget(row(name, box))
    layout.addWidget(words)
    layout.addWidget(button("Read together", "Make a layer of these images.", clicked=read))
    made.show()
    return made
