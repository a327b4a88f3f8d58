"""bfloat16 is offered where the chosen device has it, and can always be taken back."""

from __future__ import annotations

from typing import Any

import pytest

from napari_grata.adaptation.settings import Settings
from napari_grata.segmenters.devices import DeviceChoice
from napari_grata.widgets.advanced import AdvancedForm

HAS = DeviceChoice("auto", "Automatic: CPU", None, bfloat16=True)
LACKS = DeviceChoice("cpu", "CPU", None, bfloat16=False)


@pytest.fixture
def form(qtbot: Any) -> AdvancedForm:
    form = AdvancedForm()
    qtbot.addWidget(form)
    return form


def test_it_is_not_offered_before_the_devices_are_known(form: AdvancedForm) -> None:
    assert not form.low.isEnabled()
    assert form.settings().precision == "float32"


def test_choosing_it_is_told_as_a_change_of_the_settings(qtbot: Any, form: AdvancedForm) -> None:
    form.offer_bfloat16(True)
    with qtbot.waitSignal(form.changed) as told:
        form.low.click()
    assert told.args[0] == Settings(precision="bfloat16")
    assert "bfloat16" in form.low.toolTip()


def test_where_it_is_not_offered_it_can_only_be_taken_back(form: AdvancedForm) -> None:
    form.set_settings(Settings(precision="bfloat16"))
    form.offer_bfloat16(False)
    assert form.low.isEnabled()
    form.low.click()
    assert form.settings().precision == "float32"
    assert not form.low.isEnabled()


def test_the_offer_follows_the_device(make_dock: Any) -> None:
    dock = make_dock(scan=None)
    dock.warm_up.devices.emit([HAS, LACKS])
    advanced = dock.adapt.advanced
    assert dock.model.device_key() == "auto"
    assert advanced.low.isEnabled()
    dock.model.choose_device("cpu")
    dock.model.device_changed.emit()
    assert not advanced.low.isEnabled()
