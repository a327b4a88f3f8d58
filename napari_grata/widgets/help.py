"""All keys on one sheet, and what this program is."""

from __future__ import annotations

from itertools import groupby

from jinja2 import Environment
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDialog, QDialogButtonBox, QLabel

from napari_grata import __version__
from napari_grata.widgets.context import Context
from napari_grata.widgets.keys import ACTIONS
from napari_grata.widgets.qt_parts import copy_text, dialog

PAPER = (
    "Chen Z, Ye Y, Pan Y, Xia Y. Gradient Alignment Improves Test-Time Adaptation for Medical "
    "Image Segmentation. AAAI Conference on Artificial Intelligence, 2025. arXiv:2408.07343."
)
_SHEET = """
<table cellspacing="4" cellpadding="1">
{% for group, actions in groups %}<tr><td colspan="2"><b>{{ group }}</b></td></tr>
{% for action in actions %}<tr>
<td align="center" style="background-color: {{ colours.primary }}; color: {{ colours.text }}">
&nbsp;<b>{{ action.key }}</b>&nbsp;</td><td>&nbsp;&nbsp;{{ action.words }}</td></tr>{% endfor %}
{% endfor %}</table>
<p><b>napari-grata {{ version }}</b></p>
<p>Research software, not a medical device. Masks are suggestions that a person has to check.</p>
<p>Everything is computed on this machine; nothing is sent anywhere.</p>
<p>The method: {{ paper }}</p>
"""


def show_help(context: Context) -> QDialog:
    """Open keys and *About* in one window."""
    with_key = [action for action in ACTIONS if action.key]
    groups = [(name, list(found)) for name, found in groupby(with_key, lambda a: a.group)]
    words = QLabel(
        Environment(autoescape=True)
        .from_string(_SHEET)
        .render(groups=groups, colours=context.theme, version=__version__, paper=PAPER)
    )
    words.setTextFormat(Qt.TextFormat.RichText)
    words.setWordWrap(True)
    words.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    made, buttons = dialog(context.widget, "Keys and help", words)
    copy = buttons.addButton("Copy citation", QDialogButtonBox.ButtonRole.ActionRole)
    assert copy is not None
    copy.clicked.connect(lambda _checked=False: copy_text(PAPER))
    made.setMinimumWidth(480)
    made.show()
    return made
