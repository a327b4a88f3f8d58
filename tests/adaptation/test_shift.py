"""How far a scan is from the source centre, and what the card says about the centre itself."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from napari_grata.adaptation.flags import FAR_CODE, Slice, flag_slice
from napari_grata.adaptation.run import AdaptationRun
from napari_grata.adaptation.settings import Settings
from napari_grata.adaptation.shift import (
    MANY_CASES,
    FarSlices,
    LayerShift,
    ShiftError,
    far_words,
    framed,
    judge,
    shift,
    shifts,
    slice_statistics,
    slices_to_look_at,
    source_statistics,
    why_not,
)
from napari_grata.adaptation.source_centre import calibrate
from napari_grata.cli import main
from napari_grata.scans import Scan, open_scan, scan_from_array
from napari_grata.scans.samples import find_sample
from napari_grata.segmenters import Card, Segmenter, Structure, load_card, load_segmenter
from napari_grata.segmenters.shift_reference import ShiftReference, quantiles

SHA = "0" * 64


def a_card(dimensions: int = 3, **changes) -> Card:
    values = {
        "name": "tiny",
        "title": "Tiny",
        "structures": (Structure("thing", "#56B4E9", 1),),
        "channels": 1,
        "size": (32, 32),
        "modality": "T1" if dimensions == 3 else "fundus",
        "dimensions": dimensions,
        "normalisation": {"kind": "quantile", "low": 0.0, "high": 1.0},
        "weights_sha256": SHA,
    }
    return Card(**{**values, **changes})


def a_network() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 1, 1)
    )
    network.train()
    with torch.no_grad():
        for seed in range(60):
            rng = np.random.default_rng(seed)
            network(torch.from_numpy(picture(rng))[None, None])
    return network.eval()


def picture(rng: np.random.Generator, gain: float = 1.0) -> np.ndarray:
    values = rng.uniform(0, 0.6, (32, 32)) * gain
    values[8:24, 8:24] += 0.4 * gain
    # The range is the same in all of them, so that normalising leaves them alone.
    values[0, 0], values[-1, -1] = 0.0, 1.0
    return np.clip(values, 0, 1).astype(np.float32)


def a_volume(seed: int, gain: float = 1.0, slices: int = 6, blank: int = 0) -> Scan:
    rng = np.random.default_rng(seed)
    shown = [picture(rng, gain) for _ in range(slices)]
    empty = [np.zeros((32, 32), np.float32)] * blank
    return scan_from_array(
        np.stack([*empty, *shown, *empty]), name=f"volume {seed}", spacing=(1.0, 1.0, 1.0)
    )


@pytest.fixture(scope="module")
def at_home() -> Segmenter:
    """A model that knows how thirty volumes of its own centre look."""
    plain = Segmenter(a_card(), a_network(), "cpu")
    reference = calibrate(
        plain, (a_volume(1000 + k) for k in range(30)), on="thirty volumes", command="a test"
    )
    return Segmenter(dataclasses.replace(plain.card, shift=reference), plain.network, "cpu")


# --- the distance ---------------------------------------------------------------------------


def test_a_layers_distance_is_the_mean_difference_in_source_deviations(at_home: Segmenter) -> None:
    scan = a_volume(1)
    found = shift(at_home, scan)
    norm = at_home.network[1]
    slices = torch.stack([at_home.prepare(scan, i).image[0] for i in range(6)])
    with torch.no_grad():
        before = at_home.network[0](slices)
    mean, variance = before.mean((0, 2, 3)), before.var((0, 2, 3), unbiased=False)
    deviation = (norm.running_var + norm.eps).sqrt()
    (layer,) = found.per_layer
    assert layer.name == "1"
    expected = ((mean - norm.running_mean).abs() / deviation).mean()
    assert layer.mean == pytest.approx(float(expected), rel=1e-4)
    ratio = (variance / deviation**2).log().mean().exp()
    assert layer.variance_ratio == pytest.approx(float(ratio), rel=1e-3)


def test_measuring_leaves_the_model_as_it_is(at_home: Segmenter) -> None:
    before = {key: value.clone() for key, value in at_home.network.state_dict().items()}
    shift(at_home, a_volume(1))
    for key, value in at_home.network.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert not any(module._forward_pre_hooks for module in at_home.network.modules())


def test_another_threads_predictions_are_not_mixed_in(at_home: Segmenter) -> None:
    alone = slice_statistics(at_home, a_volume(1), 0)
    stop = threading.Event()

    def predict() -> None:
        while not stop.is_set():
            at_home.network(torch.rand(1, 1, 32, 32))

    other = threading.Thread(target=predict)
    other.start()
    try:
        found = [slice_statistics(at_home, a_volume(1), 0) for _ in range(50)]
    finally:
        stop.set()
        other.join()
    for one in found:
        np.testing.assert_allclose(one["1"].mean, alone["1"].mean, rtol=1e-5)


def test_scans_of_the_source_centre_are_near_and_others_far(at_home: Segmenter) -> None:
    home = [shift(at_home, a_volume(seed)) for seed in range(20)]
    assert sum(found.level == "near" for found in home) >= 17
    dim = shift(at_home, a_volume(3, gain=0.3))
    assert dim.level == "far"
    assert dim.calibrated == 1.0
    assert dim.score > max(found.score for found in home)
    assert "check scan, model and region" in dim.words


def test_the_score_grows_with_the_change(at_home: Segmenter) -> None:
    scores = [shift(at_home, a_volume(3, gain=gain)).score for gain in (1.0, 0.8, 0.6, 0.4)]
    assert scores == sorted(scores)


def test_blank_slices_are_passed_over_and_what_shows_nothing_is_refused(at_home: Segmenter) -> None:
    # Not the same to the last digit: where 0 lies around the volume, it is background within it.
    whole = shift(at_home, a_volume(2)).distance
    assert shift(at_home, a_volume(2, blank=5)).distance == pytest.approx(whole, rel=0.02)
    values = np.zeros((4, 32, 64), np.float32)
    values[:, :, 32:] = picture(np.random.default_rng(0))
    half = scan_from_array(values, name="half", spacing=(1, 1, 1))
    with pytest.raises(ShiftError, match="nothing to measure"):
        shift(at_home, half, region=(0, 0, 32, 30))


def test_slices_are_spread_evenly_away_from_the_ends() -> None:
    scan = a_volume(0, slices=40, blank=3)
    chosen = slices_to_look_at(scan, 0, 8)
    assert chosen == [5, 10, 15, 20, 25, 30, 35, 40]
    assert slices_to_look_at(a_volume(0, slices=4), 0, 8) == [0, 1, 2, 3]


def test_a_region_is_what_is_measured(at_home: Segmenter) -> None:
    scan = a_volume(2)
    part = shift(at_home, scan, region=(8, 8, 24, 24))
    assert part.distance != shift(at_home, scan).distance


def test_air_around_a_head_does_not_make_it_far() -> None:
    image = torch.zeros(1, 1, 32, 64)
    image[..., 8:24, 20:40] = 0.7
    wide = torch.zeros(1, 1, 96, 96)
    wide[..., 8:24, 60:80] = 0.7
    first, second = framed(image, (64, 64)), framed(wide, (64, 64))
    assert first.shape == (1, 1, 64, 64)
    assert torch.equal(first, second)
    full = torch.rand(1, 1, 32, 32) + 0.1
    assert framed(full, (64, 64)) is full


def test_of_a_list_the_middle_photograph_is_shown_and_the_far_ones_are_counted(
    tmp_path: Path,
) -> None:
    from PIL import Image

    plain = Segmenter(a_card(2, normalisation={"kind": "unit"}), a_network(), "cpu")
    rng = np.random.default_rng(0)
    paths = []
    for number in range(24):
        path = tmp_path / f"{number:02d}.png"
        gain = 0.2 if number >= 22 else 1.0
        Image.fromarray((picture(rng, gain) * 255).astype(np.uint8)).save(path)
        paths.append(path)
    reference = calibrate(plain, (open_scan(p) for p in paths[:22]), on="22", command="x")
    assert (reference.slices, reference.slice_quantiles, reference.frame) == (1, (), None)
    knows = Segmenter(dataclasses.replace(plain.card, shift=reference), plain.network, "cpu")
    found = shift(knows, open_scan(paths))
    assert found.cases == 24
    assert found.level == "near"
    assert "2 of them far" in found.words
    each = dict(shifts(knows, open_scan(paths)))
    assert [each[k].level for k in (22, 23)] == ["far", "far"]
    assert MANY_CASES > 24


# --- the reference --------------------------------------------------------------------------


def test_with_few_scans_the_words_say_how_many_and_the_farthest_is_the_edge() -> None:
    reference = ShiftReference("four", 4, quantiles([0.1, 0.2, 0.3, 0.4]), SHA, "x")
    assert reference.edge == pytest.approx(0.4)
    found = judge([LayerShift("a", 0.5, 1.0)], reference)
    assert found.level == "moderate"
    assert "all 4 of its own scans" in found.words
    assert judge([LayerShift("a", 0.4, 1.0)], reference).level == "near"


def test_a_photograph_is_flagged_as_far_where_the_gauge_says_so() -> None:
    reference = ShiftReference("four", 4, quantiles([0.1, 0.2, 0.3, 0.4]), SHA, "x")
    for distance in (0.41, 0.59, 0.61):
        gauge = judge([LayerShift("a", distance, 1.0)], reference)
        assert (far_words(reference, distance) is not None) == (gauge.level == "far")


def test_with_many_scans_the_edge_leaves_one_in_twenty_outside() -> None:
    reference = ShiftReference("many", 100, quantiles(np.linspace(0, 1, 101)), SHA, "x")
    assert reference.edge == pytest.approx(0.95)
    assert reference.share_within(0.5) == pytest.approx(0.5)
    found = judge([LayerShift("a", 0.99, 1.0)], reference)
    assert "19 of 20" in found.words


def test_a_model_without_a_reference_or_statistics_says_why(at_home: Segmenter) -> None:
    plain = Segmenter(a_card(), a_network(), "cpu")
    assert "card does not say" in str(why_not(plain.card))
    with pytest.raises(ShiftError, match="card does not say"):
        shift(plain, a_volume(0))
    bare = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.InstanceNorm2d(6), nn.Conv2d(6, 1, 1))
    assert source_statistics(bare) == {}
    with pytest.raises(ShiftError, match="no batch normalisation"):
        shift(Segmenter(at_home.card, bare, "cpu"), a_volume(0))


def test_calibrating_writes_the_card_alone(model: Path, tmp_path: Path, capsys) -> None:
    weights = (model / "weights.safetensors").read_bytes()
    scans = tmp_path / "scans"
    scans.mkdir()
    sample = find_sample("fundus-disc").path
    (scans / "one.png").write_bytes(sample.read_bytes())
    assert main(["calibrate", str(scans), "--model", str(model), "--on", "one photograph"]) == 0
    card = load_card(model)
    assert card.shift.scans == 1
    assert card.shift.measured_on == "one photograph"
    assert "few scans" in capsys.readouterr().err
    assert (model / "weights.safetensors").read_bytes() == weights
    found = shift(load_segmenter(model, device="cpu"), open_scan(sample))
    assert found.score == pytest.approx(1.0, abs=1e-3)


def test_a_folder_without_scans_is_refused_in_words(model: Path, tmp_path: Path, capsys) -> None:
    card = (model / "card.yaml").read_bytes()
    assert main(["calibrate", str(tmp_path / "nowhere"), "--model", str(model)]) == 2
    assert "not a folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["calibrate", str(tmp_path / "empty"), "--model", str(model)]) == 2
    assert (model / "card.yaml").read_bytes() == card


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the bundled fundus model, to be written to."""
    import shutil

    from napari_grata.segmenters import find_model

    folder = tmp_path / "fundus-disc-cup"
    shutil.copytree(find_model("fundus-disc-cup").folder, folder)
    return folder


def test_the_bundled_models_know_their_centre_and_place_the_samples() -> None:
    for key, expected in (("fundus-disc", "moderate"), ("brain-other-scanner", "moderate")):
        sample = find_sample(key)
        found = shift(load_segmenter(sample.model, device="cpu"), open_scan(sample.path))
        assert found.level == expected, key
        assert all(layer.typical is not None for layer in found.per_layer)


# --- flags ----------------------------------------------------------------------------------


def test_a_slice_far_from_the_source_centre_is_flagged_in_a_run(at_home: Segmenter) -> None:
    settings = Settings(method="batch-norm")
    far = AdaptationRun(at_home, a_volume(1, gain=0.15), settings)
    codes = [flag.code for record in far.records() for flag in record.flags]
    assert codes.count(FAR_CODE) == 6
    near = AdaptationRun(at_home, a_volume(1), settings)
    assert all(flag.code != FAR_CODE for record in near.records() for flag in record.flags)


def test_the_flag_says_what_was_seen(at_home: Segmenter) -> None:
    words = FarSlices(a_volume(1, gain=0.15)).words(at_home, 2)
    mask = np.zeros((32, 32), np.uint8)
    (flag,) = flag_slice(Slice(at_home.card, mask, mask, far=words))
    assert flag.code == "far-from-source"
    assert "unlike the slices of its own centre" in flag.text


def test_a_model_without_a_reference_flags_nothing() -> None:
    plain = Segmenter(a_card(), a_network(), "cpu")
    assert FarSlices(a_volume(1, gain=0.15)).words(plain, 2) is None


def test_masks_do_not_depend_on_whether_the_shift_is_measured(at_home: Segmenter) -> None:
    scan, settings = a_volume(4), Settings(method="grata", learning_rate=1e-2)
    plain = Segmenter(dataclasses.replace(at_home.card, shift=None), at_home.network, "cpu")
    for first, second in zip(
        AdaptationRun(at_home, scan, settings).records(),
        AdaptationRun(plain, scan, settings).records(),
        strict=True,
    ):
        np.testing.assert_array_equal(first.adapted_mask, second.adapted_mask)
        assert first.cosine == second.cosine


# --- on the command line --------------------------------------------------------------------


def test_the_command_line_prints_words_and_figures(capsys) -> None:
    from napari_grata.cli import main as command

    scan = str(find_sample("fundus-disc").path)
    assert command(["shift", scan, "--model", "fundus-disc-cup", "--device", "cpu"]) == 0
    assert "19 of 20 of its own scans" in capsys.readouterr().out
    arguments = ["shift", scan, "--model", "fundus-disc-cup", "--device", "cpu", "--json"]
    assert command(arguments) == 0
    (row,) = json.loads(capsys.readouterr().out)["scans"]
    assert row["level"] == "moderate"
    assert row["score"] == pytest.approx(1.48, abs=0.05)
    assert len(row["layers"]) == 26


def test_one_bad_scan_does_not_stop_the_others(capsys) -> None:
    from napari_grata.cli import main as command

    good, bad = find_sample("fundus-disc").path, find_sample("brain").path
    arguments = ["shift", str(bad), str(good), "--model", "fundus-disc-cup", "--device", "cpu"]
    assert command(arguments) == 0
    printed = capsys.readouterr()
    assert "fundus_disc: " in printed.out
    assert "this scan is a volume" in printed.err
