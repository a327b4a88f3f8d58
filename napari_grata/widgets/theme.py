"""Colours of the viewer's theme, the few that are ours in every theme, and the style sheet."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QColor, QIcon, QPainter, QPen, QPixmap
from qtpy.QtWidgets import QWidget

# Okabe and Ito (2008): told apart by colour-blind people.
STRUCTURE_COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#0072B2")
ADDED = "#0072B2"
REMOVED = "#D55E00"


@dataclass(frozen=True)
class ThemeColours:
    """The colours of one napari theme as ``"#rrggbb"``.

    Attributes
    ----------
    dark : bool
        Whether light text stands on a dark ground.
    background, foreground, text, current : str
        As in `napari.utils.theme.Theme`.
    muted : str
        Text that steps back, still readable: contrast of at least 4.5 to the background.
    grid : str
        Lines that must not compete with data.
    attention : str
        Marks that ask for a look (flags); readable on the background.
    wrong : str
        Marks of what failed (undone steps).
    accent : str
        The one highlighted button, the marker of the current step.
    """

    dark: bool
    background: str
    foreground: str
    text: str
    current: str
    muted: str
    grid: str
    attention: str
    wrong: str
    accent: str


def blend(first: str, second: str, share: float) -> str:
    """Return the colour that lies ``share`` of the way from ``first`` to ``second``."""
    a, b = QColor(first), QColor(second)
    mixed = (
        round(x + (y - x) * share)
        for x, y in zip((a.red(), a.green(), a.blue()), (b.red(), b.green(), b.blue()), strict=True)
    )
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def theme_colours(name: str = "dark") -> ThemeColours:
    """Return the colours of a napari theme.

    Parameters
    ----------
    name : str
        ``viewer.theme``; ``"system"`` is resolved. An unknown name (a theme whose plugin is gone)
        gives the dark theme.
    """
    from napari.utils.theme import get_theme

    try:
        theme = get_theme(name)
    except (ValueError, KeyError):
        theme = get_theme("dark")

    def colour(field: str) -> str:
        value: Any = getattr(theme, field)
        text = value.as_hex() if hasattr(value, "as_hex") else str(value)
        return QColor(text).name()

    background, text = colour("background"), colour("text")
    dark = QColor(background).lightnessF() < 0.5
    return ThemeColours(
        dark=dark,
        background=background,
        foreground=colour("foreground"),
        text=text,
        current=colour("current"),
        muted=blend(text, background, 0.28),
        grid=blend(background, text, 0.22),
        attention="#F0B429" if dark else "#9A5B00",
        wrong="#FF8A5B" if dark else "#B83A00",
        accent="#4FA3E3" if dark else "#0062A8",
    )


def tip(words: str) -> str:
    """Return words as a tooltip that wraps; Qt wraps only rich text."""
    paragraphs = (f"<p>{escape(line)}</p>" for line in words.splitlines() if line.strip())
    return "<qt>" + "".join(paragraphs) + "</qt>" if words.strip() else ""


_SWATCH, _RATIO = 12, 2.0  # side, and device pixels per pixel of the interface: crisp at high DPI


def swatch(colour: str) -> QIcon:
    """Return a small filled square for tables and lists, of a colour as ``"#RRGGBB"``."""
    pixmap = QPixmap(QSize(_SWATCH, _SWATCH) * _RATIO)
    pixmap.setDevicePixelRatio(_RATIO)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setBrush(QColor(colour))
    # A grey rim keeps a pale swatch visible on a pale ground, and a dark one on a dark ground.
    painter.setPen(QPen(QColor(128, 128, 128, 180), 1))
    painter.drawRoundedRect(1, 1, _SWATCH - 2, _SWATCH - 2, 2, 2)
    painter.end()
    return QIcon(pixmap)


def sheet(colours: ThemeColours) -> str:
    """Return the style sheet of our docks in a theme's colours."""
    on_accent, good = ("#000000", "#5BC8A0") if colours.dark else ("#ffffff", "#006B4F")
    return f"""
    QToolButton#grata_step {{
        font-weight: bold; border: none; background: transparent; padding: 3px 0px;
        text-align: left;
    }}
    QToolButton#grata_step:focus {{ text-decoration: underline; }}
    QToolButton#grata_step:disabled {{ color: {colours.muted}; font-weight: normal; }}
    QFrame#grata_line {{ border: none; border-bottom: 1px solid {colours.grid}; }}
    QFrame#grata_bar {{ border: none; border-top: 1px solid {colours.grid}; }}
    QLabel#grata_muted {{ color: {colours.muted}; }}
    QLabel#grata_small {{ color: {colours.muted}; font-size: 8pt; }}
    QLabel[tone="good"] {{ color: {good}; }}
    QLabel[tone="warning"] {{ color: {colours.attention}; }}
    QLabel[tone="wrong"] {{ color: {colours.wrong}; }}
    QPushButton {{ padding: 3px 6px; }}
    QPushButton[highlighted="true"] {{
        background-color: {colours.accent}; color: {on_accent}; font-weight: bold;
    }}
    QToolButton[chosen="true"] {{ background-color: {colours.current}; }}
    QPushButton:focus, QComboBox:focus, QLineEdit:focus, QAbstractSpinBox:focus, QCheckBox:focus {{
        border: 1px solid {colours.accent};
    }}
    QScrollArea {{ border: none; }}
    """


def mark(widget: QWidget, name: str, value: str) -> None:
    """Set a property that the style sheet asks for, and draw the widget anew if it changed."""
    if widget.property(name) != value:
        widget.setProperty(name, value)
        style = widget.style()
        if style is not None:
            style.unpolish(widget)
            style.polish(widget)
