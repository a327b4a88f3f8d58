"""Settings, the register of methods, and the presets that follow from it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from napari_grata.adaptation import METHODS, Settings, SettingsError, Tent, make_method, preset
from napari_grata.adaptation.methods import Learner, register
from napari_grata.adaptation.methods.register import _CLASSES
from napari_grata.adaptation.settings import ALIASES, PRESETS, checked
from napari_grata.cli import main


def test_what_a_file_says_of_its_method_is_what_it_registers() -> None:
    said = dict(METHODS)
    for info in said.values():
        kind = info.load()
        assert kind.name == info.name
        assert kind.learns is (info.learns != "nothing")
        assert issubclass(kind, Learner) is (info.learns not in ("nothing", "statistics"))
    assert said == METHODS


def test_a_method_is_a_preset_and_a_choice_by_itself() -> None:
    for name, info in METHODS.items():
        found = preset(name)
        assert found.settings.method == name
        if name not in ALIASES:  # those have settings and words of their own
            assert found.settings == Settings(method=name, **info.defaults)
            assert (found.title, found.summary) == (info.title, info.summary)
            assert found is PRESETS[name]
    learning = [name for name, info in METHODS.items() if info.learns != "nothing"]
    assert list(METHODS) == [*learning, "batch-norm", "intent", "source"]
    assert learning == sorted(learning)


@pytest.mark.parametrize("page", ["how-it-works.md", "command-line.md"])
def test_the_pages_name_every_preset(page: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8")
    for name, one in PRESETS.items():
        assert f"`{name}`" in text, name
        assert one.title in text or page == "command-line.md"


@pytest.mark.parametrize("verb", ["adapt", "benchmark"])
def test_the_command_line_offers_every_preset(verb: str, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert main([verb, "--help"]) == 0
    told = "".join(capsys.readouterr().out.split())  # lines may break within a name
    assert ",".join(PRESETS) in told


def test_a_method_of_the_user_can_be_chosen_and_a_taken_name_cannot() -> None:
    told = {"title": "Mine", "summary": "Does as I say.", "learns": "theta"}
    try:

        @register(name="mine", settings_used=("learning_rate",), **told)
        class Mine(Learner):
            pass

        assert Settings(method="mine").learns
        assert preset("mine").title == "Mine"
        assert METHODS["mine"].load() is Mine
        with pytest.raises(ValueError, match="two methods called 'mine'"):
            register(name="mine", **told)(type("Other", (Learner,), {}))
    finally:
        METHODS.pop("mine")
        _CLASSES.pop("mine")


@pytest.mark.parametrize("where", ["__init__", "_learn"])
def test_a_method_of_another_package_that_fails_is_named_with_its_package(where: str) -> None:
    def fail(self: object, *_: object, **__: object) -> None:
        raise KeyError("layer9")

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2))
    kind = type("Theirs", (Tent,), {where: fail})
    try:
        register(name="theirs", title="a", summary="b", learns="theta")(kind)
        METHODS["theirs"] = dataclasses.replace(METHODS["theirs"], package="theirs 3.1")
        with pytest.raises(ValueError, match=r"'theirs' of the package theirs 3.1 failed.*layer9"):
            make_method(Settings(method="theirs"), network).step(torch.rand(1, 3, 8, 8))
    finally:
        METHODS.pop("theirs")
        _CLASSES.pop("theirs")


@pytest.mark.parametrize("ask", [lambda name: Settings(method=name), preset])
def test_an_unknown_method_is_refused_with_those_there_are(ask) -> None:
    with pytest.raises(SettingsError, match=r"'jigsaw'.*consistency.*tent.*source"):
        ask("jigsaw")


def test_every_setting_says_what_it_is() -> None:
    for field in dataclasses.fields(Settings):
        about = field.metadata
        assert about["title"], field.name
        assert about["description"].endswith((".", ".)")), field.name
        value = field.default
        assert checked(field.name, value) == value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            assert about["minimum"] <= value <= about["maximum"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"blend": 1.5}, "blend is 1.5; it lies between 0 and 1"),
        ({"blend": "much"}, "blend is 'much'; it lies"),
        ({"blend": math.nan}, "blend is nan; it lies"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": None}, "learning_rate is None; it lies"),
        ({"perturbation": -1.0}, "perturbation.*or none"),
        ({"passes": 1.5}, "passes is 1.5; it is a whole number"),
        ({"passes": 0}, "passes is 0"),
        (
            {"passes": 10**4300},
            "it is a whole number between 1 and 10,000",
        ),
        ({"seed": True}, "seed is True; it is a whole number"),
        ({"six_views": 1}, "six_views is 1; it is true or false"),
        ({"mode": ["continual"]}, "mode is .*; choose one of continual, episodic, every-n"),
        ({"scribble": "both", "predict": "final", "method": "tent"}, "consistency or grata"),
    ],
)
def test_a_value_that_is_none_is_refused_with_what_is_allowed(changes, words) -> None:
    with pytest.raises(SettingsError, match=words):
        Settings(**changes)
    with pytest.raises(SettingsError, match=words):
        Settings.from_dict(changes)


@pytest.mark.parametrize("values", [["blend"], None, {"blende": 1.0}, {3: 4}])
def test_what_are_no_settings_is_refused(values) -> None:
    with pytest.raises(SettingsError, match=r"Unknown setting|names with values"):
        Settings.from_dict(values)


def test_settings_survive_being_written_down() -> None:
    chosen = Settings(method="tent", perturbation=0.05, precision="bfloat16", passes=3)
    assert Settings.from_dict(chosen.to_dict()) == chosen


def test_a_form_is_told_which_settings_change_anything() -> None:
    grata, source = Settings(method="grata"), Settings(method="source")
    assert grata.uses("auxiliary")
    assert not Settings(method="tent").uses("auxiliary")
    assert grata.uses("passes")
    assert not source.uses("passes")
    assert all(settings.uses("seed") for settings in (grata, source))
    assert not source.uses("blend")
    assert grata.uses("symmetric_entropy")
    assert not grata.but(auxiliary="consistency").uses("symmetric_entropy")
    assert grata.uses("stag")
    assert not grata.but(auxiliary="consistency").uses("stag")
    assert Settings(method="tent", auxiliary="consistency").uses("stag")
    assert not grata.uses("reset_every")
    assert grata.but(mode="every-n").uses("reset_every")
    assert not grata.uses("hold")
    assert grata.but(scribble="pseudo", predict="final").uses("hold")
