"""Tables of case rows and their intervals: what is counted, how missing things are shown."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest

from napari_grata.evaluation.report import (
    CaseRow,
    Tables,
    as_markdown,
    as_text,
    difference_text,
    holm,
    paired_interval,
    worst_tenth,
    write_tables,
)


def row(case: str, method: str, dice: float, **changes) -> CaseRow:
    values = {
        "centre": "Here",
        "structure": "disc",
        "hd95": 2.0,
        "assd": 1.0,
        "area": 80,
        "true_area": 100,
        "unit": "px",
    }
    return CaseRow(case=case, method=method, dice=dice, **{**values, **changes})


def missing(case: str, method: str) -> CaseRow:
    return row(case, method, 0.0, hd95=math.nan, assd=math.nan, area=0)


def test_differences_are_paired_by_case_whatever_the_order():
    rows = [row("a", "source", 0.5), row("b", "source", 0.9)]
    rows += [row("b", "other", 0.95), row("a", "other", 0.6)]
    found = Tables(rows).differences["other"]["Here"]["disc"]
    assert found["dice_mean"]["mean"] == pytest.approx(0.075)
    assert found["dice_mean"]["low"] >= 0.05 - 1e-12
    assert found["dice_worst_tenth"]["mean"] == pytest.approx(0.1)
    assert (found["better"], found["worse"]) == (2, 0)


def test_of_many_structures_pictures_show_those_that_methods_change_most():
    rows = [row("a", "source", 0.5, structure=f"part {n}") for n in range(12)]
    rows += [
        row("a", "other", 0.5 + (n % 6) * (0.05 if n % 2 else -0.05), structure=f"part {n}")
        for n in range(12)
    ]
    tables = Tables(rows)
    drawn = [f"part {n}" for n in range(12) if n % 6 > 1]
    assert tables.drawn == drawn
    assert [structure for _, structure, _ in tables.panels] == drawn
    assert len(tables.lines()) - 1 == len(rows)
    assert Tables(rows[:3]).drawn == ["part 0", "part 1", "part 2"]


def test_a_method_whose_cases_the_source_lacks_has_no_difference():
    rows = [row("a", "source", 0.5), row("b", "other", 0.95)]
    assert Tables(rows).differences == {}


def test_a_case_without_a_distance_is_left_out_of_its_mean_and_counted():
    rows = [row("a", "source", 0.5), missing("b", "source")]
    tables = Tables(rows)
    details = tables.details["source"]["Here"]["disc"]
    assert details["hd95_mean"] == 2.0
    assert details["one_empty"] == 1
    assert tables.summary["source"]["Here"]["disc"]["dice_mean"] == 0.25


def test_distances_are_shown_as_missing_where_no_case_has_one():
    header, line = Tables([missing("a", "source")]).lines()
    assert [line[header.index(name)] for name in ("HD95", "ASSD")] == ["–", "–"]


def test_methods_and_centres_keep_the_order_in_which_they_came():
    rows = [row("a", method, 0.5, centre=centre) for centre in "ZA" for method in ("source", "b")]
    tables = Tables(rows)
    assert list(tables.places) == ["Z", "A"]
    assert [line[2] for line in tables.lines()[1:]] == ["source", "b"] * 2


def test_a_difference_is_starred_only_where_its_interval_excludes_none():
    found = {"mean": 0.01, "low": 0.001, "high": 0.02, "excludes_zero": True}
    assert difference_text(found) == "+1.0 (+0.1 … +2.0) *"
    assert difference_text({**found, "low": -0.01, "excludes_zero": False}) == "+1.0 (-1.0 … +2.0)"
    assert difference_text({**found, "low": None, "high": None}) == "+1.0 (one case)"


def test_text_and_markdown_hold_the_same_cells():
    lines = Tables([row("a", "source", 0.5), row("a", "other", 0.6)]).lines()
    text, markdown = as_text(lines), as_markdown(lines)
    assert len(text.splitlines()) == len(markdown.splitlines()) == 4
    for cell in ("50.0", "60.0", "+10.0", "2.0 px"):
        assert cell in text
        assert cell in markdown


def test_the_full_table_shows_harm_beside_the_mean():
    rows = [row(str(i), "source", 0.9) for i in range(20)]
    rows += [row(str(i), "other", 0.95 if i > 1 else 0.6) for i in range(20)]
    header, source, other = Tables(rows).lines(full=True)
    assert len(header) == len(source) == len(other)
    found = dict(zip(header, other, strict=True))
    assert found["better / worse"] == "18 / 2"
    assert found["to source (95 % interval)"].startswith("+1.5")
    assert found["worst tenth to source"].startswith("-30.0")
    assert set(Tables(rows).lines()[0]) < set(header)


def test_files_are_plain_csv_and_json_with_gaps_where_nothing_is_known(tmp_path):
    rows = [row("a", "source", 1 / 3), missing("b", "source"), row("a", "other", 0.5)]
    rows.append(row("b", "other", 0.25))
    tables = Tables(rows)
    write_tables(tables, tmp_path)
    with open(tmp_path / "cases.csv", newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert read[0]["dice"] == "0.333333"
    assert (read[1]["hd95"], read[1]["assd"], read[1]["area"]) == ("", "", "0")
    with open(tmp_path / "differences.csv", newline="", encoding="utf-8") as file:
        figures = [line["figure"] for line in csv.DictReader(file)]
    assert figures == ["dice_mean", "dice_worst_tenth"]
    for name in ("summary", "details", "differences"):
        assert json.loads((tmp_path / f"{name}.json").read_text()) == getattr(tables, name)


def test_a_case_named_like_a_formula_is_no_formula_in_the_table(tmp_path):
    write_tables(Tables([row("=1+1", "source", 0.5)]), tmp_path)
    with open(tmp_path / "cases.csv", newline="", encoding="utf-8") as file:
        assert next(csv.DictReader(file))["case"] == "'=1+1"


@pytest.mark.parametrize(("n", "kept"), [(1, 1), (4, 1), (10, 1), (24, 2), (97, 10), (100, 10)])
def test_the_worst_tenth_is_the_mean_of_the_lowest_cases_and_never_of_none(n, kept):
    values = np.random.default_rng(0).permutation(np.arange(n, dtype=float))
    assert worst_tenth(values) == np.arange(kept).mean()


def test_the_worst_tenth_of_nothing_is_not_a_number():
    assert math.isnan(worst_tenth([]))


def test_about_nineteen_of_twenty_intervals_hold_the_true_difference():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        baseline = rng.normal(0.8, 0.1, 40)
        values = baseline + rng.normal(0.02, 0.03, 40)
        found = paired_interval(values, baseline, resamples=1000)
        hits += found["low"] <= 0.02 <= found["high"]
    assert 180 <= hits <= 199


def test_the_same_seed_gives_the_same_interval_and_another_one_nearly_so():
    rng = np.random.default_rng(5)
    values, baseline = rng.random(30), rng.random(30)
    first = paired_interval(values, baseline, seed=7)
    assert first == paired_interval(values, baseline, seed=7)
    other = paired_interval(values, baseline, seed=8)
    assert first != other
    assert first["low"] == pytest.approx(other["low"], abs=0.02)


def test_a_difference_that_is_the_same_in_every_case_has_no_width():
    found = paired_interval([0.5, 0.5, 0.5], [0.25, 0.25, 0.25])
    assert (found["mean"], found["low"], found["high"]) == (0.25, 0.25, 0.25)
    assert found["excludes_zero"]
    assert not paired_interval([0.5, 0.5], [0.5, 0.5])["excludes_zero"]


def test_one_pair_has_a_difference_but_no_interval():
    found = paired_interval([0.9], [0.8])
    assert found["mean"] == pytest.approx(0.1)
    assert found["low"] is None
    assert not found["excludes_zero"]


def test_unpaired_cases_are_refused():
    with pytest.raises(ValueError, match="Paired"):
        paired_interval([1.0, 2.0], [1.0])


def test_the_worst_tenths_of_both_sides_may_rest_on_different_cases():
    baseline = np.r_[0.1, np.full(9, 0.9)]
    values = np.r_[np.full(9, 0.9), 0.3]
    found = paired_interval(values, baseline, of_worst_tenth=True)
    assert found["mean"] == pytest.approx(0.2)
    assert found["low"] < found["mean"] < found["high"]


def test_a_lift_of_every_case_lifts_the_worst_tenth_alike():
    baseline = np.random.default_rng(1).random(30)
    found = paired_interval(baseline + 0.05, baseline, of_worst_tenth=True)
    assert (found["low"], found["mean"], found["high"]) == pytest.approx((0.05, 0.05, 0.05))


def test_the_ranking_says_in_how_many_cells_a_method_does_harm():
    rows = []
    for number in range(12):
        for centre, gain in (("Here", 0.02), ("There", -0.01)):
            case, dice = f"{centre}-{number}", 0.5 + 0.01 * number
            for method, more in (("source", 0.0), ("bold", gain * (1 + number / 40)), ("shy", 0.0)):
                rows.append(row(case, method, dice + more, centre=centre))
    tables = Tables(rows)
    bold, shy = tables.ranking
    assert (bold["method"], bold["cells"], bold["harm"]) == ("bold", 2, 1)
    assert bold["mean"] == pytest.approx(0.005 * (1 + 5.5 / 40))
    assert bold["worst_cell"] == pytest.approx(-0.01 * (1 + 5.5 / 40))
    assert (bold["surely_worse"], bold["surely_better"]) == (1, 1)
    assert (shy["harm"], shy["surely_worse"], shy["surely_better"]) == (0, 0, 0)
    # All twelve pairs on one side: 2 of the 2^12 signs; four cells are looked at.
    found = tables.difference("bold", "Here", "disc")
    assert found["p"] == pytest.approx(2 / 2**12)
    assert found["p_holm"] == pytest.approx(4 * 2 / 2**12)
    assert tables.difference("shy", "Here", "disc")["p"] == 1
    # The best by its mean is not the best by harm.
    assert (bold["harm_share"], bold["rank_of_harm"], shy["rank_of_harm"]) == (0.5, 2, 1)
    assert "1 of 2 (50 %)" in tables.ranking_lines()[1]


def test_several_p_values_are_corrected_as_holm_says():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.5]) == [1, 1]
    assert holm([]) == []
