"""A model's card as a person reads it, in the dock or in a window of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import QDialog, QPushButton, QTextBrowser, QVBoxLayout, QWidget

from napari_grata.widgets.theme import ThemeColours, theme_colours

if TYPE_CHECKING:
    from napari_grata.segmenters.card import Card

NO_CARD = "No model is chosen."
# Figures whose names a reader should not have to guess; others are shown by their own names.
_FIGURES = {
    "dice_mean": "Dice",
    "dice_worst_tenth": "worst tenth",
    "hd95_mean": "HD95",
    "assd_mean": "ASSD",
}


def card_html(card: Card | None, colours: ThemeColours, *, error: str | None = None) -> str:
    """Return a card as rich text (the subset that Qt knows), everything escaped.

    Parameters
    ----------
    card : Card or None
    colours : ThemeColours
    error : str, optional
        Why the model cannot be used; shown first.
    """
    parts: list[str] = []
    if error:
        parts.append(
            f"<p style='color: {colours.wrong}'><b>This model cannot be used.</b><br>"
            f"{_lines(error)}</p>"
        )
    if card is None:
        return "".join(parts) or f"<p>{NO_CARD}</p>"
    muted = colours.muted
    parts.append(f"<h3>{escape(card.title)}</h3>")
    version = f"{escape(card.name)}, version {escape(str(card.version))}"
    parts.append(f"<p style='color: {muted}'>{version}</p>")
    if card.task:
        parts.append(f"<p>{_lines(card.task)}</p>")

    def section(title: str, body: str) -> None:
        if body:
            parts.append(f"<p style='margin: 10px 0px 2px 0px'><b>{title}</b></p>{body}")

    section("Finds", _structures(card, muted))
    section("Reads", _paragraph(_reads(card)))
    section("Source centre", _paragraph(card.source_centre))
    section("Trained on", _training(card.training_data, muted))
    section("How good it is at home", _results(card.results, muted))
    section("Shift is judged against", _paragraph(_home(card)))
    section("Meant for", _paragraph(card.intended_use))
    section("Limits", _paragraph(card.limits))
    section("Terms", _paragraph(card.licence))
    if card.weights_sha256:
        digest = f"{card.architecture}, weights {card.weights_sha256[:12]}…"
        parts.append(f"<p style='color: {muted}; margin-top: 10px'>{escape(digest)}</p>")
    return "".join(parts)


def _lines(text: str) -> str:
    return escape(text.strip()).replace("\n", "<br>")


def _paragraph(text: str) -> str:
    return f"<p style='margin: 0px'>{_lines(text)}</p>" if text.strip() else ""


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


def _structures(card: Card, muted: str) -> str:
    rows = []
    for item in card.structures:
        notes = [f"value {item.value}"] + ([f"inside the {item.inside}"] if item.inside else [])
        rows.append(
            f"<tr><td><span style='color: {escape(item.colour)}'>■</span>&nbsp;</td>"
            f"<td>{escape(item.name)}&nbsp;&nbsp;</td>"
            f"<td><span style='color: {muted}'>{escape(', '.join(notes))}</span></td></tr>"
        )
    return f"<table>{''.join(rows)}</table>"


def _training(entries: Iterable[Mapping[str, Any]], muted: str) -> str:
    items = []
    for entry in entries:
        words = _lines(str(entry.get("name", "")))
        for key, value in entry.items():
            if key != "name":
                words += f"<br><span style='color: {muted}'>{escape(key)}: {_lines(str(value))}"
                words += "</span>"
        items.append(f"<p style='margin: 0px 0px 4px 0px'>{words}</p>")
    return "".join(items)


def _results(entries: Iterable[Mapping[str, Any]], muted: str) -> str:
    """Figures by structure, under the centre they were measured on; commands once, below."""
    groups: dict[str, list[str]] = {}
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
                figures.append(_figure_words(key, value, entry.get("unit")))
            else:
                where.append(str(value))
        groups.setdefault(", ".join(where), []).append(
            f"<tr><td>{escape(str(entry.get('structure', '')))}&nbsp;&nbsp;</td>"
            f"<td>{escape(' · '.join(figures))}</td></tr>"
        )
    if not groups:
        return _paragraph("No figures are given.")
    parts = [
        (f"<p style='margin: 0px; color: {muted}'>{escape(where)}</p>" if where else "")
        + f"<table cellspacing='2'>{''.join(rows)}</table>"
        for where, rows in groups.items()
    ]
    parts += [
        f"<p style='margin: 2px 0px 0px 0px; color: {muted}'>"
        f"Measured by <code>{escape(command)}</code></p>"
        for command in commands
    ]
    return "".join(parts)


def _figure_words(key: str, value: float, unit: Any) -> str:
    """Return ``"Dice 91.3"``, or for counts ``"1 volume"``."""
    if key in ("n", "slices"):
        noun = str(unit or "cases") if key == "n" else key
        return f"{value} {noun.removesuffix('s') if value == 1 else noun}"
    return f"{_FIGURES.get(key, key.replace('_', ' '))} {_number(value)}"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3g}"


class ModelCardView(QTextBrowser):
    """A card's text, wrapped to the width there is; can be selected and copied.

    Links are shown as text: reading a card opens nothing.
    """

    def __init__(self, parent: QWidget | None = None, *, theme: str = "dark") -> None:
        super().__init__(parent)
        self._card: Card | None = None
        self._error: str | None = None
        self._colours = theme_colours(theme)
        self.setOpenLinks(False)
        self.setAccessibleName("Model card")
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setMinimumHeight(120)
        self.set_theme(theme)

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return a size that suits the dock; a dialog gives more."""
        return QSize(320, 240)

    def set_card(self, card: Card | None, error: str | None = None) -> None:
        """Show a card, or why there is none."""
        self._card, self._error = card, error
        self.setHtml(card_html(card, self._colours, error=error))

    def set_theme(self, name: str) -> None:
        """Take the colours of a napari theme (``viewer.theme``)."""
        self._colours = theme_colours(name)
        self.setStyleSheet(
            f"QTextBrowser {{background: {self._colours.background};"
            f" color: {self._colours.text}; border: 1px solid {self._colours.grid};}}"
        )
        self.set_card(self._card, self._error)


class ModelCardDialog(QDialog):
    """A card in a window of its own.

    Parameters
    ----------
    card : Card or None
    parent : QWidget, optional
    theme : str
    error : str, optional
        Why the model cannot be used.
    """

    def __init__(
        self,
        card: Card | None,
        parent: QWidget | None = None,
        *,
        theme: str = "dark",
        error: str | None = None,
    ) -> None:
        super().__init__(parent)
        self.setWindowTitle(card.title if card else "Model")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.view = ModelCardView(theme=theme)
        self.view.set_card(card, error)
        close = QPushButton("Close")
        close.clicked.connect(self.reject)
        layout = QVBoxLayout(self)
        layout.addWidget(self.view, 1)
        layout.addWidget(close, 0, Qt.AlignmentFlag.AlignRight)
        self.resize(480, 560)


def show_card(entry: Any, parent: QWidget | None = None, *, theme: str = "dark") -> ModelCardDialog:
    """Open a window with the card of a `ModelEntry`; the viewer stays usable beside it."""
    dialog = ModelCardDialog(
        getattr(entry, "card", None), parent, theme=theme, error=getattr(entry, "error", None)
    )
    dialog.show()
    return dialog
