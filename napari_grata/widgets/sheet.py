"""The dock's style sheet: headings, the one highlighted button, quiet text, tones."""

from __future__ import annotations

from qtpy.QtWidgets import QWidget

from napari_grata.widgets.theme import ThemeColours, contrast


def sheet(colours: ThemeColours) -> str:
    """Return the style sheet in a theme's colours."""
    on_accent = max(("#ffffff", "#000000"), key=lambda ink: contrast(ink, colours.accent))
    good = "#5BC8A0" if colours.dark else "#006B4F"
    return f"""
    QFrame#grata_heading {{ border: none; border-bottom: 1px solid {colours.grid}; }}
    QToolButton#grata_title {{
        font-weight: bold; border: none; background: transparent; padding: 2px 0px;
        text-align: left;
    }}
    QToolButton#grata_title:focus {{ text-decoration: underline; }}
    QLabel#grata_muted {{ color: {colours.muted}; }}
    QLabel#grata_small {{ color: {colours.muted}; font-size: 8pt; }}
    QLabel#grata_message {{ padding: 1px 0px; }}
    QLabel#grata_message[tone="good"] {{ color: {good}; }}
    QLabel#grata_message[tone="warning"] {{ color: {colours.attention}; }}
    QLabel#grata_message[tone="wrong"] {{ color: {colours.wrong}; }}
    QPushButton {{ padding: 3px 6px; }}
    QPushButton[highlighted="true"] {{
        background-color: {colours.accent}; color: {on_accent}; font-weight: bold;
    }}
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
