"""Model cards: what they say, what they refuse, and which scans they fit."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from napari_grata.scans import scan_from_array
from napari_grata.segmenters.card import (
    Card,
    CardError,
    Structure,
    card_to_yaml,
    load_card,
    structure_mask,
)

DISC = Structure("disc", "#56B4E9", 1)
CUP = Structure("cup", "#E69F00", 2, "disc")
FUNDUS = Card(
    name="fundus-x",
    title="Fundus: disc and cup",
    structures=(DISC, CUP),
    arguments={"encoder": "compact"},
    size=(128, 96),
    training_data=({"name": "somewhere", "terms": "research only"},),
    results=({"command": "napari-grata benchmark", "disc": 95.5},),
    weights_sha256="0" * 64,
)
BRAIN = Card(
    name="brain-x",
    title="Brain: tissue",
    structures=tuple(
        Structure(name, "#009E73", value)
        for value, name in enumerate(("csf", "grey matter", "white matter"), 1)
    ),
    activation="softmax",
    channels=1,
    spacing=(1.0, 1.0),
    normalisation={"kind": "quantile", "low": 0.01, "high": 0.99},
    modality="T1",
    dimensions=3,
)
RANDOM = np.random.default_rng(0)


def broken(**changes) -> str:
    with pytest.raises(CardError) as caught:
        replace(FUNDUS, **changes)
    return str(caught.value)


@pytest.mark.parametrize("card", [FUNDUS, BRAIN], ids=lambda card: card.name)
def test_a_card_written_as_yaml_is_read_back_equal(card, tmp_path):
    (tmp_path / "card.yaml").write_text(card_to_yaml(card), encoding="utf-8")
    assert load_card(tmp_path) == card
    assert load_card(tmp_path / "card.yaml") == card


def test_numpy_figures_in_results_are_written_as_plain_numbers(tmp_path):
    card = replace(FUNDUS, results=({"command": "x", "dice": np.float64(0.5)},))
    (tmp_path / "card.yaml").write_text(card_to_yaml(card), encoding="utf-8")
    assert load_card(tmp_path).results[0]["dice"] == 0.5


def test_softmax_has_one_output_more_for_the_background():
    assert FUNDUS.outputs == 2
    assert BRAIN.outputs == 4


def test_the_disc_is_disc_and_cup_together():
    label_map = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    assert structure_mask(FUNDUS, label_map, "disc").tolist() == [[0, 1, 1], [1, 1, 0]]
    assert structure_mask(FUNDUS, label_map, CUP).tolist() == [[0, 0, 1], [1, 0, 0]]


def test_containment_reaches_through_several_levels_whatever_the_order():
    card = replace(
        FUNDUS,
        structures=(
            Structure("core", "#000000", 3, "cup"),
            Structure("cup", "#000000", 2, "disc"),
            Structure("disc", "#000000", 1),
        ),
    )
    assert sorted(card.values_within("disc")) == [1, 2, 3]
    assert card.painting_order() == (2, 1, 0)


def test_an_unknown_structure_is_named_beside_those_that_there_are():
    with pytest.raises(KeyError, match="disc, cup"):
        structure_mask(FUNDUS, np.zeros((2, 2), np.uint8), "macula")


def test_all_problems_of_a_card_are_told_at_once():
    text = broken(
        name="My Model",
        activation="relu",
        channels=2,
        structures=(DISC, Structure("cup", "orange", 1, "disk")),
    )
    for part in ("'My Model'", "'relu'", "'orange'"):
        assert part in text
    assert "same value, 1" in text
    assert "'disk'" in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "../escape"}, "small letters"),
        ({"size": (100, 100)}, "multiples of 32"),
        ({"size": (256,)}, "rows, columns"),
        ({"dimensions": 3, "spacing": (1.0, 1.0)}, "keep one"),
        ({"size": None, "spacing": (0.0, 1.0), "dimensions": 3}, "in mm"),
        ({"size": None, "spacing": (1.0, 1.0)}, "needs dimensions: 3"),
        ({"normalisation": {"kind": "z-score"}}, "min-max"),
        ({"normalisation": {"kind": "quantile", "low": 0.9, "high": 0.1}}, "low < high"),
        ({"structures": ()}, "a list of what the model finds"),
        ({"structures": (DISC, replace(CUP, value=256))}, "1 to 255"),
        ({"structures": (replace(DISC, inside="cup"), CUP)}, "inside itself"),
        ({"activation": "softmax"}, "no meaning for exclusive classes"),
        ({"arguments": {"outputs": 3}}, "needs 2"),
        ({"weights_sha256": "abc"}, "64 hexadecimal"),
        ({"training_data": ({"name": "x"},)}, "'terms'"),
        ({"results": ({"dice": 1},)}, "'command'"),
    ],
)
def test_a_broken_rule_is_told_with_what_would_be_right(changes, said):
    assert said in broken(**changes)


@pytest.mark.parametrize("field", [item.name for item in fields(Card)])
def test_a_value_of_the_wrong_kind_is_a_card_error_in_every_field(field):
    for value in (object(), 1.5, [[1]], [{"a": [1]}]):
        with pytest.raises(CardError, match=field.split("_")[0]):
            replace(FUNDUS, **{field: value})


def test_a_version_that_yaml_reads_as_a_number_is_text_again(tmp_path):
    text = card_to_yaml(FUNDUS).replace("version: '1'", "version: 2.0")
    (tmp_path / "card.yaml").write_text(text, encoding="utf-8")
    assert load_card(tmp_path).version == "2.0"


def test_a_misspelt_field_is_answered_with_the_right_one(tmp_path):
    text = card_to_yaml(FUNDUS).replace("normalisation:", "normalization:")
    (tmp_path / "card.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(CardError, match="Did you mean 'normalisation'") as caught:
        load_card(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "field: value"),
        ("name: [unclosed", "not valid YAML"),
        ("- a\n- b\n", "field: value"),
        ("name: x\nstructures: disc\n", "should be a list"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_card_is_refused_with_its_place(content, said, tmp_path):
    (tmp_path / "card.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(CardError, match=said):
        load_card(tmp_path)


def bomb(levels: int) -> str:
    """Anchors that refer to one another: nine to the power of `levels` values in a few lines."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


HOSTILE = {
    "aliases": (bomb(9), "not valid YAML"),
    "aliases in a card": (card_to_yaml(FUNDUS) + bomb(8), "not valid YAML"),
    "deep list": ("name: " + "[" * 50_000, "20 deep"),
    "deep mapping": ("name: " + "{a: " * 20_000, "20 deep"),
    "5,000 digits": ("version: " + "9" * 5_000, "not valid YAML"),
    "20,000 hexadecimal digits": ("version: 0x" + "f" * 20_000, "64 bits"),
    "too long": (card_to_yaml(FUNDUS) + "#" * 200_000, "128 KB"),
    "long text": (card_to_yaml(FUNDUS).replace("fundus\n", "f" * 50_000 + "\n"), "modality is"),
    "many fields": ("\n".join(f"field{n}: {n}" for n in range(5_000)), "problems"),
    "empty number": ('name: !!int ""', "not valid YAML"),
    "no date": ("name: !!timestamp x", "not valid YAML"),
    "twice": (card_to_yaml(FUNDUS) + "name: another\n", "given 2 times"),
    "many structures": (
        card_to_yaml(FUNDUS).replace(
            "structures:\n",
            "structures:\n"
            + "".join(f"- {{name: s{n}, colour: '#000000', value: 3}}\n" for n in range(2_000)),
        ),
        "same value",
    ),
}


@pytest.mark.parametrize(("content", "said"), HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_card_is_refused_in_few_words_and_little_time(content, said, tmp_path):
    (tmp_path / "card.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(CardError, match=said) as caught:
        load_card(tmp_path)
    assert len(str(caught.value)) < 3_000


def test_a_version_that_looks_like_a_date_is_text(tmp_path):
    text = card_to_yaml(FUNDUS)
    for version in ("2024-13-45", "2024-01-05"):
        changed = text.replace("version: '1'", f"version: {version}")
        (tmp_path / "card.yaml").write_text(changed, encoding="utf-8")
        assert load_card(tmp_path).version == version


def test_a_value_too_long_to_show_is_told_shortly():
    for value in (10**5_000, "x" * 10**6, list(range(10**5))):
        assert len(broken(size=value)) < 500


def test_a_folder_without_a_card_says_what_a_model_is(tmp_path):
    with pytest.raises(CardError, match=r"card\.yaml and weights\.safetensors"):
        load_card(tmp_path)


@pytest.fixture
def scans():
    colour = RANDOM.integers(0, 255, (40, 50, 3), dtype=np.uint8)
    grey = RANDOM.normal(size=(6, 40, 50)).astype(np.float32)
    return {
        "photograph": scan_from_array(colour, name="a", rgb=True),
        "grey photograph": scan_from_array(colour[..., 0], name="a", path="a.png"),
        "list": scan_from_array(np.stack([colour, colour]), name="a", rgb=True),
        "plain array": scan_from_array(colour[..., 0], name="a"),
        "slice": scan_from_array(grey[0], name="a", spacing=(1, 1)),
        "volume": scan_from_array(grey, name="a", spacing=(3, 1, 1)),
        "series": scan_from_array(np.stack([grey, grey]), name="a", spacing=(1, 3, 1, 1)),
    }


@pytest.mark.parametrize(
    ("card", "kinds"),
    [
        (FUNDUS, {"photograph", "grey photograph", "list", "plain array"}),
        (BRAIN, {"plain array", "slice", "volume", "series"}),
    ],
    ids=["photographs", "volumes"],
)
def test_a_model_fits_the_scans_that_it_reads_and_no_others(card, kinds, scans):
    assert {kind for kind, scan in scans.items() if card.fits(scan) is None} == kinds


def test_why_a_model_does_not_fit_is_one_sentence(scans):
    assert FUNDUS.fits(scans["volume"]) == (
        "This model reads colour photographs of the eye; this scan is a volume of grey slices."
    )
    assert BRAIN.fits(scans["photograph"]) == (
        "This model reads T1-weighted MR volumes; this scan is a colour photograph."
    )


def shift_block(**changes: object) -> dict[str, object]:
    block: dict[str, object] = {
        "measured_on": "forty scans",
        "scans": 40,
        "quantiles": [round(0.1 + 0.01 * k, 2) for k in range(21)],
        "weights": "a" * 64,
        "command": "a command",
        "frame": [192, 256],
        "layers": {"bn1": 0.2},
    }
    return {**block, **changes}


def test_a_card_keeps_how_its_own_centres_scans_look(tmp_path: Path) -> None:
    card = replace(FUNDUS, weights_sha256="a" * 64)
    card = replace(card, shift=shift_block())  # type: ignore[arg-type]
    assert card.shift is not None
    assert card.shift.edge == pytest.approx(0.29)
    (tmp_path / "card.yaml").write_text(card_to_yaml(card), encoding="utf-8")
    assert load_card(tmp_path) == card
    assert "quantiles: [0.1, 0.11" in card_to_yaml(card)


def test_a_card_without_that_says_nothing_about_it() -> None:
    card = FUNDUS
    assert "shift" not in card_to_yaml(card)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantiles": [0.1, 0.2]}, "21 rising distances"),
        ({"quantiles": [0.5 - 0.01 * k for k in range(21)]}, "21 rising distances"),
        ({"scans": 0}, "whole number"),
        ({"near": 2.0}, "near the smaller one"),
        ({"weights": "b" * 64}, "other weights"),
        ({"weights": "none"}, "SHA-256"),
        ({"layers": {"bn1": "much"}}, "layer: distance"),
        ({"frame": [100, 256]}, "multiples of 32"),
        ({"measured_on": ""}, "should be text of"),
        ({"quantile": 3}, "'quantile' is unknown"),
    ],
)
def test_a_wrong_shift_block_is_refused_in_words(changes: dict[str, object], words: str) -> None:
    card = replace(FUNDUS, weights_sha256="a" * 64)
    with pytest.raises(CardError, match=words):
        replace(card, shift=shift_block(**changes))  # type: ignore[arg-type]


def test_a_card_names_the_views_its_model_is_used_to(tmp_path: Path) -> None:
    assert len(FUNDUS.views) == 6
    card = replace(FUNDUS, views=("identity", "left-right"))
    (tmp_path / "card.yaml").write_text(card_to_yaml(card), encoding="utf-8")
    assert load_card(tmp_path).views == ("identity", "left-right")
    text = card_to_yaml(card)
    start = text.index("views:")
    (tmp_path / "card.yaml").write_text(text[:start], encoding="utf-8")
    assert load_card(tmp_path).views == FUNDUS.views


@pytest.mark.parametrize(
    "views", [(), ("left-right",), ("identity", "identity"), ("identity", "mirror"), "identity"]
)
def test_wrong_views_are_refused_in_words(views: object) -> None:
    with pytest.raises(CardError, match="identity"):
        replace(FUNDUS, views=views)  # type: ignore[arg-type]


def test_other_weights_leave_the_old_distances_behind(tmp_path: Path) -> None:
    import torch

    from napari_grata.segmenters import write_model

    card = replace(FUNDUS, weights_sha256="a" * 64, shift=shift_block())  # type: ignore[arg-type]
    assert card.shift is not None
    assert write_model(tmp_path / "new", card, {"a": torch.ones(2)}).shift is None
