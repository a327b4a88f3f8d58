"""Model cards: right ones come back equal, odd and hostile ones are refused or obey the rules."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from random import Random
from typing import Any

import yaml

from napari_grata.segmenters import list_models, load_card
from napari_grata.segmenters.card import VIEWS, Card, Structure, card_to_yaml, write_card
from napari_grata.segmenters.extent import Extent
from napari_grata.segmenters.shift_reference import STEPS, ShiftReference

from . import damaged, expect, must_be_taken

# What YAML reads otherwise than people mean it, and what breaks lines.
_TEXTS = (
    "disc", "grey matter", "Sehnervenkopf", "視神経乳頭", "a: b", "# no comment", "- item", "'",
    '"',
    "null", "yes", "1e3", "0x10", "1:30", "2024-13-45", "!tag", "&a", "*a", "{", "[x]", "%",
    "two\nlines", "tab\there", " space ", "\u2028", "\x85", "é" * 300, "🧠", "\\", "<<", "=",
)  # fmt: skip
_ODD = (
    None, "", " ", 0, 1, -1, 2, 3, 1.5, -0.0, 1e308, float("nan"), float("inf"), True, False,
    "x" * 20_000, "x", "\x07", [], {}, [[]], [1], [1, 2], [32, 64], [1.0, 1.0], ["identity"],
    {"kind": "unit"}, {"a": [1]}, [{"name": "x"}], [{"name": "x", "terms": "y"}], "a" * 64,
    10**18, 10**30, list(range(300)), {str(n): n for n in range(300)}, [None], [[[[[[[[[[]]]]]]]]]],
)  # fmt: skip


def trial(random: Random, folder: Path) -> None:
    """Write one card, right or wrong, and read it."""
    card = made_up(random)
    content = card_to_yaml(card)
    how = random.choice(("good", "good", "field", "field", "field", "bytes", "hostile"))
    if how == "good":
        write_card(folder, card)
    elif how == "field":
        (folder / "card.yaml").write_text(_other_field(random, content), encoding="utf-8")
    elif how == "bytes":
        (folder / "card.yaml").write_bytes(damaged(random, content.encode()))
    else:
        (folder / "card.yaml").write_bytes(_hostile(random, content).encode("utf-8", "replace"))
    if random.random() < 0.1:
        _is_no_bad_neighbour(folder)
    with must_be_taken(how == "good"):
        read = load_card(folder)
    if how == "good":
        plain = yaml.safe_load(content)
        expect(read == card, "a card came back otherwise")
        expect(plain["title"] == card.title, "plain YAML reads another title")
        expect(len(plain["structures"]) == len(card.structures), "structures are lost")
    _obeys(read, folder)


def made_up(random: Random) -> Card:
    """Draw a card that is right."""
    softmax, volumes = random.random() < 0.4, random.random() < 0.5
    names = random.sample([text for text in _TEXTS if text.strip()], random.randint(1, 5))
    values = random.sample(range(1, 256), len(names))
    structures = tuple(
        Structure(
            name,
            f"#{random.randrange(16**6):06X}",
            value,
            random.choice(names[:number])
            if number and not softmax and random.random() < 0.5
            else None,
        )
        for number, (name, value) in enumerate(zip(names, values, strict=True))
    )
    digest = f"{random.getrandbits(256):064x}"
    distances = tuple(sorted(round(random.uniform(0.01, 3), 4) for _ in range(STEPS)))
    shift = random.choice((None, ShiftReference("x", 3, distances, digest, "x")))
    span = tuple(sorted(round(random.random(), 4) for _ in range(3)))
    low = round(random.uniform(0, 0.4), 3)
    return Card(
        name=f"m{random.randrange(10**6)}-x_y.z",
        title=random.choice(names),
        structures=structures,
        activation="softmax" if softmax else "sigmoid",
        architecture=random.choice(("resunet", "another")),
        arguments={"encoder": "compact"} if random.random() < 0.5 else {},
        channels=random.choice((1, 3)),
        size=None if volumes else (32 * random.randint(1, 9), 32 * random.randint(1, 9)),
        spacing=(round(random.uniform(0.1, 9), 3), 1.0) if volumes else None,
        normalisation=random.choice(
            ({"kind": "min-max"}, {"kind": "unit"}, {"kind": "quantile", "low": low, "high": 0.99})
        ),
        modality=random.choice([text for text in _TEXTS if text.strip()]),
        dimensions=3 if volumes else 2,
        version=random.choice(("1", "2.0", "2024-13-45", "1e3", "0x10")),
        task=random.choice(_TEXTS),
        limits=random.choice(_TEXTS),
        training_data=tuple({"name": "x", "terms": text} for text in names[:2]),
        results=({"command": "x", "dice": random.random(), "n": random.randrange(99)},),
        weights_sha256=digest,
        views=("identity", *random.sample(VIEWS[1:], random.randint(0, 5))),
        extents=tuple(Extent(one.name, 3, side=span, hint="x") for one in structures[:2]),  # type: ignore[arg-type]
        shift=shift,
    )


def _other_field(random: Random, content: str) -> str:
    """Put something odd into a field, leave one out, or add one."""
    plain: dict[Any, Any] = yaml.safe_load(content)
    inside = random.choice([plain, plain, *plain["structures"], plain["normalisation"]])
    inside = random.choice([inside, *(plain.get(key) for key in ("shift",) if plain.get(key))])
    key = random.choice([*inside, random.choice(("extra", "nam", 7, None))])
    if random.random() < 0.2:
        inside.pop(key, None)
    else:
        inside[key] = random.choice(_ODD)
    return str(yaml.safe_dump(plain, allow_unicode=True, sort_keys=False))


def _hostile(random: Random, content: str) -> str:
    levels, times = random.randint(2, 12), random.choice((10, 1_000, 30_000))
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, levels)
    )
    piece = random.choice(
        (
            bomb,
            "extra: " + "[" * times,
            "extra: " + "{a: " * times,
            "extra: " + "9" * times,
            "extra: 0x" + "f" * times,
            "extra: " + "1:" * times + "1",
            "extra: 0." + "1" * times,
            "extra: " + "x" * times,
            "".join(f"k{n}: 1\n" for n in range(times)),
            "extra: [" + "1," * times + "]",
            "extra: !!python/object/apply:os.system [touch executed]",
            "extra: !!int ''",
            "extra: !!binary 'ä'",
            "extra: !!timestamp x",
            "<<: [{name: a}, {name: b}]",
            "? [a, b]\n: c",
            "---\n" + content,
            "name: again",
            "extra: |\n" + " x\n" * times,
            "\x00",
            "%YAML 9.9\n---\n",
        )
    )
    where = random.choice(("before", "after", "instead"))
    if where == "instead":
        return re.sub("^version: .*$", lambda _: piece, content, flags=re.MULTILINE)
    return f"{piece}\n{content}" if where == "before" else f"{content}{piece}\n"


def _is_no_bad_neighbour(folder: Path) -> None:
    """A list of models with this one beside a right one."""
    shelf = folder / "shelf"
    shutil.copytree(folder, shelf / "odd")
    (shelf / "right").mkdir()
    write_card(shelf / "right", made_up(Random(0)))
    (shelf / "right" / "weights.safetensors").touch()
    before = os.environ.pop("NAPARI_GRATA_MODELS", "")
    os.environ["NAPARI_GRATA_MODELS"] = str(shelf)
    try:
        entries = [entry for entry in list_models() if entry.folder.parent == shelf]
    finally:
        os.environ["NAPARI_GRATA_MODELS"] = before
    expect(len(entries) == 2, "a model is missing from the list")
    expect(all(entry.card or entry.error for entry in entries), "a bad model without words")
    expect(all(len(entry.error or "") < 5_000 for entry in entries), "endless words")
    good = [entry.folder.name for entry in entries if entry.card]
    expect("right" in good, "a bad card takes a good one down")
    shutil.rmtree(shelf)


def _obeys(card: Card, folder: Path) -> None:
    """What every card that was taken must be like."""
    values = [structure.value for structure in card.structures]
    names = [structure.name for structure in card.structures]
    expect(re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,79}", card.name), "a name that is no folder's")
    expect(values and len(set(values)) == len(values), "values that are not told apart")
    expect(all(type(v) is int and 1 <= v <= 255 for v in values), "a value beyond 255")
    expect(len(set(names)) == len(names), "names that are not told apart")
    expect(all(s.inside is None or s.inside in names for s in card.structures), "inside nothing")
    expect(sorted(card.painting_order()) == list(range(len(values))), "a structure is not painted")
    expect("identity" in card.views, "no identity among the views")
    expect(not (folder / "executed").exists() and not Path("executed").exists(), "a program ran")
    again = folder / "again"
    again.mkdir()
    write_card(again, card)
    with must_be_taken(True):
        expect(_same(load_card(again), card), "a card that was taken does not come back equal")


def _same(one: Card, two: Card) -> bool:
    """Equality in which NaN, as figures may be, equals itself."""
    return card_to_yaml(one) == card_to_yaml(two)
