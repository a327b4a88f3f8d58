"""Training as a whole: seeded, resumable, honest figures, a model folder that loads."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from napari_grata.segmenters.card import load_card, write_card
from napari_grata.segmenters.segmenter import load_segmenter
from tools.train import RECIPES, Recipe, TrainingError, train
from tools.train.__main__ import main
from tools.train.data import find_cases, split_cases
from tools.train.evaluate import evaluate_model, worst_tenth
from tools.train.loop import segmentation_loss, soft_dice
from tools.train.recipes import FUNDUS
from tools.train.views import GeometryRange

TINY = replace(
    FUNDUS,
    folder="set/eyes",
    card=replace(FUNDUS.card, size=(64, 64)),
    frame=(64, 64),
    home_frame=(64, 64),
    views=GeometryRange(shift=0.05, flip_columns=True),
    block=1,
    batch_size=2,
    epochs=3,
    calm=0.34,
    home_share=0.0,
)


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photographs with a bright square and a brighter one inside."""
    root = tmp_path_factory.mktemp("data") / "set" / "eyes"
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    rng = np.random.default_rng(0)
    for k in range(6):
        mask = np.full((64, 64), 255, np.uint8)
        a, b = rng.integers(10, 18, 2)
        mask[a : a + 36, b : b + 36] = 128
        mask[a + 10 : a + 28, b + 10 : b + 28] = 0
        level = np.select([mask == 0, mask == 128], [230, 150], 40)[..., None]
        picture = level * [1.0, 0.8, 0.6] + rng.normal(0, 4, (64, 64, 3))
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(root / f"images/{k}.png")
        Image.fromarray(mask).save(root / f"masks/{k}.png")
    return root


@pytest.fixture(scope="module")
def trained(eyes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(TINY, eyes, tmp_path_factory.mktemp("model"), seed=1, device="cpu")


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "weights.safetensors")


def test_training_writes_a_model_that_loads(trained: Path) -> None:
    segmenter = load_segmenter(str(trained), device="cpu")
    assert segmenter.card.name == "fundus-disc-cup"
    assert sorted(p.name for p in trained.iterdir()) == ["card.yaml", "weights.safetensors"]


def test_the_card_states_measured_figures_and_their_command(trained: Path, eyes: Path) -> None:
    card = load_card(trained)
    held_out = split_cases(find_cases(eyes, TINY.folder), TINY.hold_out, seed=1)[1]
    measured = evaluate_model(trained, held_out, TINY.labels)
    assert [row["structure"] for row in card.results] == ["disc", "cup"]
    for row, again in zip(card.results, measured, strict=True):
        assert {key: row[key] for key in again} == again
        assert row["n"] == 1
        assert "python -m tools.train model fundus-disc-cup" in row["command"]
        assert "--seed 1" in row["command"]


def test_the_card_states_how_the_structures_of_the_training_are(trained: Path) -> None:
    disc, cup = load_card(trained).extents
    assert (disc.structure, disc.cases, cup.structure) == ("disc", 5, "cup")
    assert disc.side == pytest.approx((36 / 64,) * 3, abs=0.01)
    assert "Draw a region" in disc.hint


def test_the_extents_of_any_model_are_measured_by_a_command(
    trained: Path, eyes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = tmp_path / "model", tmp_path / "data"
    shutil.copytree(trained, model)
    write_card(model, replace(load_card(model), name="my-own", extents=()))
    shutil.copytree(eyes / "images", data / "images")
    (data / "masks").mkdir()
    for path in (eyes / "masks").iterdir():
        mask = np.asarray(Image.open(path))
        values = np.select([mask == 0, mask == 128], [2, 1], 0).astype(np.uint8)
        Image.fromarray(values).save(data / "masks" / path.name)
    assert main(["extent", str(model), str(data), "--hint", "Look again."]) == 0
    card = load_card(model)
    assert [(one.structure, one.cases, one.hint) for one in card.extents] == [
        ("disc", 6, "Look again."),
        ("cup", 6, "Look again."),
    ]
    assert card.weights_sha256 == load_card(trained).weights_sha256
    assert main(["extent", str(model), str(tmp_path / "nowhere")]) == 2
    assert "images" in capsys.readouterr().err


def test_the_commands_run_as_a_module_and_as_a_folder() -> None:
    root = Path(__file__).resolve().parents[2]
    for how in (["-m", "tools.train"], ["tools/train"]):
        run = subprocess.run(
            [sys.executable, *how, "--help"], cwd=root, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        assert all(verb in run.stdout for verb in ("model", "evaluate", "extent", "shift"))


def test_one_seed_gives_one_model_and_another_seed_another(
    trained: Path, eyes: Path, tmp_path: Path
) -> None:
    same = weights(train(TINY, eyes, tmp_path / "a", seed=1, device="cpu"))
    first = weights(trained)
    assert all(torch.equal(first[key], same[key]) for key in first)
    other = weights(train(TINY, eyes, tmp_path / "b", seed=2, epochs=1, device="cpu"))
    assert not torch.equal(first["seg_head.weight"], other["seg_head.weight"])


def test_an_interrupted_training_resumes_to_the_same_model(
    trained: Path, eyes: Path, tmp_path: Path
) -> None:
    def stop_after_two(progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TINY, eyes, tmp_path / "m", seed=1, progress=stop_after_two, device="cpu")
    seen = []
    train(TINY, eyes, tmp_path / "m", seed=1, resume=True, progress=seen.append, device="cpu")
    assert [p.done for p in seen] == [3, 3]
    first, resumed = weights(trained), weights(tmp_path / "m")
    assert all(torch.equal(first[key], resumed[key]) for key in first)


def test_a_checkpoint_of_another_training_is_refused(eyes: Path, tmp_path: Path) -> None:
    def stop(progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TINY, eyes, tmp_path, seed=1, progress=stop, device="cpu")
    with pytest.raises(TrainingError, match="seed = 1, not 2"):
        train(TINY, eyes, tmp_path, seed=2, resume=True, device="cpu")
    content = (tmp_path / "checkpoint" / "training.safetensors").read_bytes()
    (tmp_path / "checkpoint" / "training.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(TrainingError, match="damaged"):
        train(TINY, eyes, tmp_path, seed=1, resume=True, device="cpu")


def test_resuming_nothing_says_so(eyes: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nothing to resume"):
        train(TINY, eyes, tmp_path, resume=True, device="cpu")


def test_progress_counts_epochs_with_a_finite_loss(eyes: Path, tmp_path: Path) -> None:
    seen = []
    train(TINY, eyes, tmp_path, epochs=2, progress=seen.append, device="cpu")
    assert [(p.done, p.total) for p in seen] == [(1, 2), (2, 2), (2, 2)]
    assert all(math.isfinite(p.loss) for p in seen[:2])


def test_an_unknown_recipe_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match="fundus-disc-cup, fundus-disc-cup-plain, brain-tissue-t1"
    ):
        train("heart", tmp_path, tmp_path, device="cpu")


def test_no_epoch_at_all_is_an_error(eyes: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="0 epochs"):
        train(TINY, eyes, tmp_path, epochs=0, device="cpu")


def test_source_statistics_are_those_of_the_unchanged_images(trained: Path, eyes: Path) -> None:
    from napari_grata.scans import open_scan

    segmenter = load_segmenter(str(trained), device="cpu")
    cases = split_cases(find_cases(eyes, TINY.folder), TINY.hold_out, seed=1)[0]
    images = torch.cat([segmenter.prepare(open_scan(c.image), 0).image for c in cases])
    stem = segmenter.network.res.conv1(images)
    kept = segmenter.network.res.bn1.running_mean
    assert torch.allclose(stem.mean((0, 2, 3)), kept, atol=0.05 * float(stem.std()))


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))
def test_recipes_hold_together(recipe: Recipe) -> None:
    assert len(recipe.values) == recipe.card.outputs
    assert all(side % 32 == 0 for side in (*recipe.frame, *recipe.home_frame))
    assert set(recipe.labels.values()) == {0} | {s.value for s in recipe.card.structures}
    assert recipe.card.licence == "research and education only"


def test_loss_falls_to_zero_for_the_right_answer_and_not_for_the_wrong_one() -> None:
    targets = torch.zeros(2, 2, 8, 8)
    targets[:, 0, 2:6, 2:6] = 1
    targets[1, 1, 3:5, 3:5] = 1
    assert segmentation_loss(40 * (targets - 0.5), targets, "sigmoid") < 1e-3
    assert segmentation_loss(-40 * (targets - 0.5), targets, "sigmoid") > 2
    classes = torch.cat([1 - targets.amax(1, keepdim=True), targets], 1)
    classes[:, 1] -= classes[:, 2]
    assert segmentation_loss(40 * classes, classes, "softmax") < 1e-3
    assert segmentation_loss(40 * classes.roll(1, 1), classes, "softmax") > 2


def test_soft_dice_counts_an_empty_structure_left_empty_as_right() -> None:
    empty = torch.zeros(1, 1, 4, 4)
    assert float(soft_dice(empty, empty)) == 1
    half = empty.clone()
    half[..., :2] = 1
    assert float(soft_dice(half, torch.ones(1, 1, 4, 4), smooth=0)) == pytest.approx(2 / 3)


def test_the_worst_tenth_is_the_mean_of_the_lowest_and_of_one_at_least() -> None:
    assert worst_tenth([50, 90, 80]) == 50
    assert worst_tenth(list(range(20))) == pytest.approx(0.5)


def test_the_evaluation_command_prints_a_line_per_structure(
    trained: Path, eyes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(eyes.parents[1])
    assert main(["evaluate", str(trained), data, "--centre", "set/eyes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["disc" in lines[0], "cup" in lines[1], len(lines)] == [True, True, 2]
    assert main(["evaluate", str(trained), data, "--centre", "nowhere/else"]) == 2
    assert "nowhere/else" in capsys.readouterr().err
