"""Brings the dock's widgets in line with the situation: one function for each kind of change."""

from __future__ import annotations

from typing import Any

from napari_grata.adaptation.settings import PRESETS
from napari_grata.segmenters.registry import ModelEntry
from napari_grata.widgets import candidates
from napari_grata.widgets.saving import fill
from napari_grata.widgets.sheet import mark
from napari_grata.widgets.state import Facts, Look


def dress(dock: Any, look: Look, facts: Facts) -> None:
    """Show a state: sentence, live controls, the one highlighted button."""
    dock.message.say(look.message)
    mark(dock.message, "tone", look.tone)
    dock.details_button.setVisible(bool(dock.desk.details) and look.tone == "wrong")
    for section in (dock.scan, dock.model, dock.adapt):
        section.set_live(look.choices)
    buttons = {
        "open": dock.scan.open_button,
        "segment": dock.model.segment_button,
        "adapt": dock.adapt.adapt_button,
        "save": dock.review.save_button,
    }
    buttons["segment"].setEnabled(look.segment)
    buttons["segment"].setToolTip(look.segment_tip)
    buttons["adapt"].setEnabled(look.adapt)
    buttons["adapt"].setToolTip(look.adapt_tip)
    bar = dock.progress
    bar.pause_button.setEnabled(look.pause)
    bar.pause_button.setText(look.pause_text)
    bar.cancel_button.setEnabled(look.cancel)
    bar.cancel_button.setText(look.cancel_text)
    dock.review.set_live(
        compare=look.review and facts.adapted and facts.segmented,
        save=look.review and look.choices,
        reopen=look.choices,
    )
    for name, widget in buttons.items():
        mark(widget, "highlighted", "true" if look.highlight == name else "false")
    dock.model.pace.say(
        dock.desk.notice
        or dock.desk.expectation(
            dock.model.device_key(), dock.model.device.currentText(), dock.scan.slices_text()
        )
    )


def show_session(dock: Any) -> None:
    """Draw curves and table of the chosen scan and model anew."""
    session, scan = dock.desk.session, dock.desk.scan
    plot, table = dock.adapt.plot, dock.review.table
    plot.clear()
    plot.set_slice_names(scan.slice_name if scan is not None else None)
    records = session.stream if session is not None else []
    plot.set_records(records)
    if session is not None:
        table.set_card(session.card)
        table.set_scan(session.scan)
        if session is dock.desk.runner.session:
            plot.set_expected_steps(session.expected_steps)
        plot.set_resets(session.resets)
    table.set_records(records)
    dock.review.shown.say("")


def show_saved_run(dock: Any, run: Any, records: list[Any]) -> None:
    """Bring a saved run into the viewer: scan, masks, curves, table, settings."""
    desk = dock.desk
    if run.scan is None:
        desk.fail(" ".join(run.missing))
        return
    layer = desk.layer
    if desk.scan is None or desk.scan.path != run.scan.path or layer is None:
        layer = dock.viewer.add_image(run.scan.data, **run.scan.layer_kwargs())
    entries = dock.model.entries()
    if not any(entry.name == run.card.name and entry.card for entry in entries):
        where = run.model_folder or run.folder
        entries.append(ModelEntry(run.card.name, run.card.title, where, "user", run.card))
    dock.scan.set_layers(candidates.scan_layers(dock.viewer))
    dock.scan.choose(layer)
    dock.model.set_entries(entries, run.card.name)
    dock.choosing.choose()
    session = desk.sessions.renew(layer, desk.scan, run.card, filled=desk.filled)
    fill(session, run, records)
    session.note = " ".join(run.missing)
    name = next((p.name for p in PRESETS.values() if p.settings == run.settings), None)
    dock.adapt.set_method(name or run.settings.method, run.settings)
    show_session(dock)
    if session.taken_step is not None:
        # The records are those of the run; the masks in use are of an earlier state.
        dock.review.table.set_rows(session.measure().rows)
    desk.changed.emit()
