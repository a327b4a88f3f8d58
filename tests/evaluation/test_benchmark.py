"""The benchmark on small made-up cohorts with a small untrained network."""

from __future__ import annotations

import base64
import csv
import json
import os
import re
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from napari_grata.adaptation import AdaptationRun, preset
from napari_grata.adaptation.methods.register import METHODS as REGISTER
from napari_grata.cli import main
from napari_grata.evaluation import measure, run_benchmark, worst_tenth
from napari_grata.evaluation.benchmark import merge_benchmarks
from napari_grata.evaluation.cohort import CohortError
from napari_grata.scans import open_scan, read_mask
from napari_grata.segmenters import (
    Card,
    ResUNet,
    Segmenter,
    Structure,
    load_segmenter,
    structure_mask,
    write_model,
)

LABELS = {255: 0, 128: 1, 0: 2}
METHODS = ("source", "batch-norm", "grata")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def untrained(card: Card) -> ResUNet:
    torch.manual_seed(0)
    network = ResUNet("compact", outputs=card.outputs, channels=card.channels)
    # Statistics unlike any image's, so that adapting them changes masks.
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
    return network


@pytest.fixture(scope="module")
def fundus(tmp_path_factory) -> Path:
    card = Card(
        name="small-fundus",
        title="Small",
        structures=(
            Structure("disc", "#56B4E9", 1),
            Structure("cup", "#E69F00", 2, inside="disc"),
        ),
        arguments={"encoder": "compact"},
        size=(64, 64),
    )
    folder = tmp_path_factory.mktemp("models") / card.name
    write_model(folder, card, untrained(card))
    return folder


@pytest.fixture
def other_fundus(fundus, tmp_path) -> Path:
    """The same network under another name, which answers alike."""
    shutil.copytree(fundus, tmp_path / "other-fundus")
    card = tmp_path / "other-fundus" / "card.yaml"
    card.write_text(card.read_text().replace("name: small-fundus", "name: other-fundus"))
    return tmp_path / "other-fundus"


@pytest.fixture(scope="module")
def brain() -> Segmenter:
    card = Card(
        name="small-brain",
        title="Small",
        structures=(
            Structure("grey matter", "#56B4E9", 1),
            Structure("white matter", "#E69F00", 2),
        ),
        activation="softmax",
        arguments={"encoder": "compact"},
        channels=1,
        spacing=(2.0, 2.0),
        normalisation={"kind": "quantile", "low": 0.01, "high": 0.99},
        modality="T1",
        dimensions=3,
    )
    return Segmenter(card, untrained(card), "cpu")


@pytest.fixture
def eyes(tmp_path) -> Path:
    """Two centres with three and two photographs of different sizes."""
    rng = np.random.default_rng(0)
    for centre, stems in {"Near": "abc", "Far": "de"}.items():
        for folder in ("images", "masks"):
            (tmp_path / "eyes" / centre / folder).mkdir(parents=True)
        for number, stem in enumerate(stems):
            size = (70 + 4 * number, 64)
            rows, columns = np.indices(size)
            away = np.hypot(rows - size[0] / 2, columns - 30 - number)
            mask = np.select([away < 9, away < 20], [0, 128], 255).astype(np.uint8)
            picture = (255 - mask)[..., None] * [0.8, 0.5, 0.3] + rng.normal(40, 15, (*size, 3))
            picture = picture.clip(0, 255).astype(np.uint8)
            Image.fromarray(picture).save(tmp_path / "eyes" / centre / "images" / f"{stem}.png")
            Image.fromarray(mask).save(tmp_path / "eyes" / centre / "masks" / f"{stem}.png")
    return tmp_path / "eyes"


@pytest.fixture
def heads(tmp_path) -> Path:
    """One centre with two volumes, anisotropic and not stored in the displayed orientation."""
    rng = np.random.default_rng(1)
    for folder in ("images", "masks"):
        (tmp_path / "heads" / "Scanner" / folder).mkdir(parents=True)
    for number in range(2):
        grid = np.stack(np.indices((32, 36, 5)) - np.array([16, 18, 2])[:, None, None, None])
        away = np.sqrt((grid**2 * np.array([1, 1, 4])[:, None, None, None]).sum(0))
        mask = np.select([away < 6, away < 11 + number], [2, 1], 0).astype(np.uint8)
        image = (200 * mask + rng.normal(20, 5, mask.shape)).astype(np.float32)
        affine = np.diag([-2.0, 2.0, 3.5, 1.0])
        for folder, values in {"images": image, "masks": mask}.items():
            path = tmp_path / "heads" / "Scanner" / folder / f"v{number}.nii.gz"
            nib.save(nib.Nifti1Image(values, affine), path)
    return tmp_path / "heads"


def read_cases(out: Path) -> list[dict[str, str]]:
    with open(out / "cases.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_files_have_the_form_that_was_agreed(fundus, eyes, tmp_path):
    found = run_benchmark(eyes, fundus, METHODS, LABELS, tmp_path / "out")
    rows = read_cases(tmp_path / "out")
    header = ["centre", "case", "structure", "method", "dice", "hd95", "assd", "area"]
    assert list(rows[0]) == [*header, "ece", "seed", "order", "model"]
    assert len(rows) == 5 * 2 * 3
    near = [row for row in rows if (row["centre"], row["method"]) == ("Near", "grata")]
    assert [row["case"] for row in near if row["structure"] == "disc"] == ["a", "b", "c"]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert list(summary) == list(METHODS)
    cell = summary["grata"]["Far"]["cup"]
    assert set(cell) == {"dice_mean", "dice_worst_tenth", "n"}
    dice = [
        float(row["dice"])
        for row in rows
        if (row["method"], row["centre"], row["structure"]) == ("grata", "Far", "cup")
    ]
    assert cell["dice_mean"] == pytest.approx(np.mean(dice), abs=1e-5)
    assert cell["dice_worst_tenth"] == pytest.approx(worst_tenth(dice), abs=1e-5)
    assert cell["n"] == 2
    differences = json.loads((tmp_path / "out" / "differences.json").read_text())
    assert "source" not in differences
    interval = differences["grata"]["Near"]["disc"]["dice_mean"]
    assert interval["low"] <= interval["mean"] <= interval["high"]
    source = summary["source"]["Near"]["disc"]["dice_mean"]
    adapted = summary["grata"]["Near"]["disc"]["dice_mean"]
    assert interval["mean"] == pytest.approx(adapted - source)
    assert (tmp_path / "out" / "dice.png").stat().st_size > 10_000
    assert found.text.splitlines()[0].startswith("centre")
    assert f"{100 * cell['dice_mean']:.1f}" in found.text


def test_a_centre_of_photographs_is_one_stream_from_the_source_model(fundus, eyes, tmp_path):
    run_benchmark(eyes, fundus, ["grata"], LABELS, tmp_path / "out", centres=["Near"], seed=3)
    segmenter = load_segmenter(fundus, "cpu")
    images = sorted((eyes / "Near" / "images").iterdir())
    scan = open_scan(images)
    run = AdaptationRun(segmenter, scan, preset("grata").settings.but(seed=3))
    list(run.records())
    rows = {(r["case"], r["structure"]): r for r in read_cases(tmp_path / "out")
            if r["method"] == "grata"}  # fmt: skip
    for index, image in enumerate(images):
        truth = read_mask(eyes / "Near" / "masks" / image.name, open_scan(image), labels=LABELS)
        for structure in ("disc", "cup"):
            expected = measure(
                structure_mask(segmenter.card, run.adapted_masks[index], structure),
                structure_mask(segmenter.card, truth, structure),
            )
            row = rows[image.stem, structure]
            assert float(row["dice"]) == pytest.approx(expected.dice, rel=1e-5)
            assert int(row["area"]) == expected.area
            assert expected.true_area > 0
            if row["hd95"]:
                assert float(row["hd95"]) == pytest.approx(expected.hd95, rel=1e-5)
    run.close()


def test_the_truth_never_reaches_the_methods(fundus, eyes, tmp_path):
    run_benchmark(eyes, fundus, METHODS, LABELS, tmp_path / "right")
    for path in eyes.glob("*/masks/*.png"):
        mask = np.array(Image.open(path))
        Image.fromarray(np.roll(mask, 25, 0)).save(path)
    run_benchmark(eyes, fundus, METHODS, LABELS, tmp_path / "wrong")
    right, wrong = read_cases(tmp_path / "right"), read_cases(tmp_path / "wrong")
    assert [row["area"] for row in right] == [row["area"] for row in wrong]
    assert [row["dice"] for row in right] != [row["dice"] for row in wrong]


def test_an_interrupted_benchmark_goes_on_and_ends_with_the_same_numbers(fundus, eyes, tmp_path):
    def stop(state):
        if (state.method, state.centre) == ("grata", "Far"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_benchmark(eyes, fundus, METHODS, LABELS, tmp_path / "out", progress=stop)
    # What was finished can be looked at already.
    assert {row["method"] for row in read_cases(tmp_path / "out")} == {"source", "batch-norm"}
    resumed = run_benchmark(eyes, fundus, METHODS, LABELS, tmp_path / "out")
    assert resumed.reused == 2
    whole = run_benchmark(eyes, fundus, METHODS, LABELS, tmp_path / "whole")
    assert whole.reused == 0
    assert resumed.tables.rows == whole.tables.rows


def test_another_seed_or_mask_is_computed_again(fundus, eyes, tmp_path):
    options = {"centres": ["Far"], "limit": 1}
    run_benchmark(eyes, fundus, ["batch-norm"], LABELS, tmp_path / "out", **options)
    again = run_benchmark(eyes, fundus, ["batch-norm"], LABELS, tmp_path / "out", **options)
    assert again.reused == 2
    seeded = run_benchmark(
        eyes, fundus, ["batch-norm"], LABELS, tmp_path / "out", seed=1, **options
    )
    assert seeded.reused == 0
    Image.fromarray(np.full((70, 64), 255, np.uint8)).save(eyes / "Far" / "masks" / "d.png")
    changed = run_benchmark(
        eyes, fundus, ["batch-norm"], LABELS, tmp_path / "out", seed=1, **options
    )
    assert changed.reused == 0
    assert {row.true_area for row in changed.tables.rows} == {0}
    assert {row.case for row in changed.tables.rows} == {"d"}


def test_progress_counts_to_its_end(fundus, eyes, tmp_path):
    states = []
    run_benchmark(eyes, fundus, METHODS, LABELS, tmp_path / "out", progress=states.append)
    assert [state.done for state in states] == list(range(1, 16))
    assert {state.total for state in states} == {15}


def test_workers_give_the_numbers_of_one_process(fundus, other_fundus, eyes, tmp_path):
    models, options = [fundus, other_fundus], {"centres": ["Far"], "device": "cpu"}
    alone = run_benchmark(eyes, models, ["batch-norm"], LABELS, tmp_path / "one", **options)
    states = []
    options |= {"jobs": 2, "progress": states.append}
    shared = run_benchmark(eyes, models, ["batch-norm"], LABELS, tmp_path / "two", **options)
    assert len(shared.tables.rows) == len(alone.tables.rows) == 16
    for mine, other in zip(shared.tables.rows, alone.tables.rows, strict=True):
        assert (mine.model, mine.case, mine.structure) == (other.model, other.case, other.structure)
        # A worker has its own number of threads, which moves the last digits.
        assert mine.dice == pytest.approx(other.dice, abs=5e-3)
    assert states[-1].done == states[-1].total == 8


def test_parts_on_several_machines_give_the_numbers_of_one(fundus, eyes, tmp_path):
    def run(out: str, **share):
        found = run_benchmark(
            eyes, fundus, ["source", "batch-norm"], "255:0,128:1,0:2", tmp_path / out, **share
        )
        return found, (tmp_path / out / "cases.csv").read_text()

    _, whole = run("one")
    first, part = run("many", share=(1, 3))
    assert len(part) < len(whole)
    assert "not there yet" in first.notes[-1]
    run("many", share=(2, 3))
    last, part = run("many", share=(3, 3))
    assert part == whole
    assert not any("not there yet" in note for note in last.notes)
    assert run("many")[0].reused == 4
    with pytest.raises(CohortError, match="part 4 of 3"):
        run("many", share=(4, 3))
    with pytest.raises(CohortError, match="no stream"):
        run("fresh", share=(9, 9))


def test_the_state_lives_on_over_the_volumes_of_a_centre(brain, heads, tmp_path):
    # A method and a rate that move masks by a third: no rounding of any processor does.
    settings = preset("tent").settings.but(learning_rate=0.05)
    run_benchmark(heads, brain, {"lively": settings}, None, tmp_path / "out")
    truths, areas, fresh = [], [], []
    state = None
    for number in range(2):
        scan = open_scan(heads / "Scanner" / "images" / f"v{number}.nii.gz")
        truth = read_mask(heads / "Scanner" / "masks" / f"v{number}.nii.gz", scan)
        truths.append(truth)
        for start, into in ((state, areas), (None, fresh)):
            run = AdaptationRun(brain, scan, settings, start=start)
            list(run.records())
            stack = np.stack([run.adapted_masks[i] for i in range(scan.n_slices)])
            into.append(int((stack == 1).sum()))
            if into is areas:
                after, first = run.state, stack
                spacing = (scan.slice_thickness, *scan.slice_spacing)
                expected = measure(first == 1, truth == 1, spacing)
            run.close()
        state = after
    rows = [
        row for row in read_cases(tmp_path / "out")
        if (row["method"], row["structure"]) == ("lively", "grey matter")
    ]  # fmt: skip
    assert [int(row["area"]) for row in rows] == areas
    assert areas[0] == fresh[0]
    assert fresh[1] > 1.2 * areas[1]
    assert float(rows[1]["hd95"]) == pytest.approx(expected.hd95, rel=1e-5)
    details = json.loads((tmp_path / "out" / "details.json").read_text())
    assert details["lively"]["Scanner"]["grey matter"]["unit"] == "mm"


def test_a_structure_that_no_mask_shows_is_not_measured(fundus, eyes, tmp_path):
    found = run_benchmark(eyes, fundus, ["source"], "255:0,128:1,0:1", tmp_path / "out")
    assert found.tables.structures == ["disc"]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("255:0,128:0,0:0", r"name no structure of the model \(1 disc, 2 cup\)"),
        ("255:0,128:1", r"values without a meaning: \[0\]"),
        ("255-0", "VALUE:LABEL"),
    ],
)
def test_labels_that_do_not_fit_are_refused_in_words(fundus, eyes, tmp_path, labels, words):
    with pytest.raises(ValueError, match=words):
        run_benchmark(eyes, fundus, ["source"], labels, tmp_path / "out")


def test_volumes_for_a_model_of_photographs_are_refused_in_words(fundus, brain, heads, tmp_path):
    with pytest.raises(ValueError, match=r"Scanner: small-fundus cannot.*reads colour photographs"):
        run_benchmark(heads, [brain, fundus], ["source"], None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_limit_or_number_of_jobs_below_one_is_refused(fundus, eyes, tmp_path):
    with pytest.raises(CohortError, match="at least 1"):
        run_benchmark(eyes, fundus, ["source"], LABELS, tmp_path / "out", limit=0)


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_prints_the_table_where_it_belongs(fundus, eyes, tmp_path, capsys, as_json):
    arguments = [str(eyes), "--model", str(fundus), "--methods", "source, batch-norm"]
    arguments += ["--labels", "255:0,128:1,0:2", "--centres", "Far", "--out", str(tmp_path / "out")]
    arguments += ["--device", "cpu", "--quiet", *(["--json"] if as_json else [])]
    assert main(["benchmark", *arguments]) == 0
    printed = capsys.readouterr()
    assert "batch-norm" in (printed.err if as_json else printed.out)
    # Three cases: the caution goes where it does not disturb the table or the JSON.
    assert "Fewer than 10 cases" in printed.err
    if as_json:
        result = json.loads(printed.out)
        assert result["summary"]["batch-norm"]["Far"]["disc"]["n"] == 2
    else:
        assert "batch-norm" not in printed.err


def test_seeds_and_orders_are_computed_where_they_can_matter_and_reused_where_not(
    fundus, eyes, tmp_path
):
    options = {"centres": ["Near"], "seeds": 2, "orders": 2}
    methods = ["source", "tent", "consistency"]
    found = run_benchmark(eyes, fundus, methods, LABELS, tmp_path / "out", **options)
    with open(tmp_path / "out" / "streams.csv", newline="", encoding="utf-8") as file:
        computed = {
            (row["method"], row["seed"], row["order"]): row["computed_as"]
            for row in csv.DictReader(file)
        }
    # Tent draws nothing; source, not even θ, depends on what came before.
    one, other = "seed 0, order 0", "seed 0, order 1"
    streams = [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
    for method, expected in {
        "source": ["", one, one, one],
        "tent": ["", "", one, other],
        "consistency": ["", "", "", ""],
    }.items():
        assert [computed[(method, *stream)] for stream in streams] == expected
    assert len(list((tmp_path / "out" / "parts").iterdir())) == 1 + 2 + 4
    # What is reused is what would have been found.
    alone = run_benchmark(
        eyes, fundus, ["tent"], LABELS, tmp_path / "alone", centres=["Near"], seed=1
    )
    told = {
        (row.method, row.seed, row.order, row.case, row.structure): row.dice
        for row in found.tables.rows
    }
    assert len(told) == len(found.tables.rows) == 3 * 4 * 3 * 2
    for row in alone.tables.rows:
        assert row.dice == told[row.method, 1, 0, row.case, row.structure]
    details = found.tables.details["consistency"]["Near"]["disc"]
    means = [
        np.mean([told["consistency", seed, order, case, "disc"] for case in "abc"])
        for seed in range(2)
        for order in range(2)
    ]
    assert details["streams"] == 4
    assert details["dice_mean_spread"] == pytest.approx(np.std(means, ddof=1))
    assert found.tables.summary["consistency"]["Near"]["disc"]["n"] == 3
    again = run_benchmark(eyes, fundus, methods, LABELS, tmp_path / "out", **options)
    assert again.reused == 12


def test_another_version_of_a_methods_package_is_computed_again(
    fundus, eyes, tmp_path, monkeypatch
):
    reused = []
    for version in ("1.0", "1.0", "1.1"):
        theirs = replace(REGISTER["batch-norm"], package=f"somebodys {version}")
        monkeypatch.setitem(REGISTER, "batch-norm", theirs)
        found = run_benchmark(
            eyes, fundus, ["batch-norm"], LABELS, tmp_path / "out", centres=["Far"], limit=1
        )
        reused.append(found.reused)
    assert reused == [0, 2, 1]


def test_folders_of_machines_and_of_models_are_merged(fundus, eyes, tmp_path, capsys):
    def run(out: str, **share):
        run_benchmark(eyes, fundus, ["source", "batch-norm"], LABELS, tmp_path / out, **share)

    run("whole")
    run("a", share=(1, 2))
    run("b", share=(2, 2))
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert main(["benchmark", "--merge", *folders, "--out", str(tmp_path / "both")]) == 0
    for name in ("cases.csv", "differences.json", "summary.json"):
        assert (tmp_path / "both" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert "not there yet" not in capsys.readouterr().err
    said = json.loads((tmp_path / "b" / "benchmark.json").read_text())
    said["methods"]["batch-norm"]["blend"] = 0.5
    (tmp_path / "b" / "benchmark.json").write_text(json.dumps(said))
    with pytest.raises(CohortError, match="method batch-norm is not the same"):
        merge_benchmarks(folders, tmp_path / "three")
    with pytest.raises(CohortError, match="no benchmark in this folder"):
        merge_benchmarks([tmp_path], tmp_path / "four")


def test_several_models_stand_in_one_table_whoever_computed_which(
    fundus, other_fundus, eyes, tmp_path
):
    arguments = [str(eyes), "--labels", "255:0,128:1,0:2", "--methods", "tent", "--seeds", "2"]
    arguments += ["--centres", "Far", "--device", "cpu", "--quiet", "--out"]
    both, whole = f"{fundus}, {other_fundus}", tmp_path / "whole"

    def run(out: str, *more: str) -> None:
        assert main(["benchmark", *arguments, str(tmp_path / out), "--model", *more]) == 0

    run("whole", both, "--part", "1", "--of", "2")
    run("whole", both)
    for out, model in {"one": fundus, "two": other_fundus}.items():
        run(out, str(model))
    merge_benchmarks([tmp_path / "one", tmp_path / "two"], tmp_path / "merged")
    for name in ("cases.csv", "differences.csv", "summary.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (whole / name).read_bytes()
    rows = read_cases(whole)
    mine, others = (
        [{**row, "model": ""} for row in rows if row["model"] == name]
        for name in ("small-fundus", "other-fundus")
    )
    assert mine == others
    assert len(mine) == 2 * 2 * 2 * 2
    summary = json.loads((whole / "summary.json").read_text())
    assert list(summary["tent"]) == ["small-fundus: Far", "other-fundus: Far"]
    markdown = (whole / "table.md").read_text().split("\n\n")
    assert markdown[0].split("\n")[0].endswith("| small-fundus | other-fundus |")
    assert markdown[1].startswith("| model | centre |")
    with pytest.raises(CohortError, match="two models are called small-fundus"):
        run_benchmark(eyes, [fundus, fundus], ["tent"], LABELS, tmp_path / "twice")


def test_the_protocols_run_online_and_vptta_goes_on_from_centre_to_centre(fundus, eyes, tmp_path):
    out = {}
    for protocol in ("grata", "vptta"):
        found = run_benchmark(
            *(eyes, fundus, {"mine": preset("careful").settings}, LABELS, tmp_path / protocol),
            centres=["Near", "Far"],
            limit=1,
            protocol=protocol,
        )
        said = json.loads((tmp_path / protocol / "benchmark.json").read_text())
        assert said["models"]["small-fundus"]["size"] == [512, 512]
        assert said["methods"]["mine"]["predict"] == "stream"
        assert not said["methods"]["mine"]["six_views"]
        out[protocol] = {(row.centre, row.case, row.structure) for row in found.tables.rows}
    assert {row[:2] for row in out["grata"]} == {("Near", "a"), ("Far", "d")}
    assert {row[:2] for row in out["vptta"]} == {("Near+Far", "Near/a"), ("Near+Far", "Far/d")}


def test_the_page_stands_alone_and_shows_a_losing_method_losing(fundus, eyes, tmp_path):
    found = run_benchmark(eyes, fundus, METHODS, LABELS, tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r'<script|(src|href)="(?!data:)|url\((?!#)', page)
    assert [one["mean"] < 0 for one in found.tables.ranking] == [
        row.startswith(' class="loses"') for row in page.split("tbody>")[1].split("<tr")[1:]
    ]
    for picture in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page):
        assert ElementTree.fromstring(base64.b64decode(picture)).tag.endswith("svg")
    assert page.count("<img") == 1 + 1 + 2


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_worker_lost_in_the_middle_changes_not_a_byte(fundus, eyes, tmp_path):
    from distributed import Client, LocalCluster

    methods = ["source", "batch-norm", "consistency"]
    run_benchmark(eyes, fundus, methods, LABELS, tmp_path / "one", seeds=2, device="cpu")
    killed: list[int] = []
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        pids = client.run(os.getpid)

        def kill(state):
            busy = [address for address, tasks in client.processing().items() if tasks]
            if not killed and busy:
                killed.append(pids[busy[0]])
                os.kill(killed[0], signal.SIGKILL)

        run_benchmark(
            *(eyes, fundus, methods, LABELS, tmp_path / "many"),
            seeds=2,
            scheduler=cluster.scheduler_address,
            device="cpu",
            progress=kill,
        )
        assert killed
        assert killed[0] not in client.run(os.getpid).values()
    for name in ("cases.csv", "summary.json", "differences.json"):
        assert (tmp_path / "many" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_a_cluster_that_is_not_there_is_told_in_words(fundus, eyes, tmp_path, monkeypatch):
    def run(scheduler: str) -> None:
        run_benchmark(eyes, fundus, ["source"], LABELS, tmp_path / "out", scheduler=scheduler)

    with pytest.raises(CohortError, match="tcp:/nowhere does not answer"):
        run("tcp:/nowhere")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(CohortError, match=r'pip install "napari-grata\[cluster\]"'):
        run("local")
