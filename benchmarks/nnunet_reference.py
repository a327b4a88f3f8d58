"""Does our reading of an nnU-Net folder predict what nnU-Net's own predictor does?

Trains small models with nnU-Net itself on the hippocampus data, then predicts the held-out volumes
with both and compares the masks. Needs ``nnunetv2`` beside napari-grata; nothing of the package
needs it.

    pip install nnunetv2
    python benchmarks/nnunet_reference.py DATA WORK           # train what is missing, then compare
    python benchmarks/nnunet_reference.py DATA WORK --only plain-2d

``DATA`` is the folder of the hippocampus data (``images``, ``masks``), ``WORK`` one for nnU-Net.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

DATASET = "Dataset004_Hippocampus"
HELD_OUT = 10


@dataclass(frozen=True)
class Variant:
    """One model to train: what differs from the plans that nnU-Net makes.

    Attributes
    ----------
    configuration : str
    changes : dict
        Into the configuration's plans.
    regions : bool
        Hippocampus and its posterior part as overlapping regions instead of two labels.
    normalisation : str
    folds : tuple of int
    iterations : int
        A thousandth of a real training; enough for masks that are no noise.
    """

    configuration: str
    changes: dict[str, Any] = field(default_factory=dict)
    regions: bool = False
    normalisation: str = "ZScoreNormalization"
    folds: tuple[int, ...] = (0,)
    iterations: int = 400
    residual: bool = False


VARIANTS = {
    "plain-2d": Variant("2d", {"patch_size": [56, 40]}, iterations=900),
    # Resampled in the plane, in several windows, two folds, overlapping regions.
    "regions-2d": Variant(
        "2d",
        {"patch_size": [40, 40], "spacing": [0.8, 0.9]},
        regions=True,
        folds=(0, 1),
        iterations=400,
    ),
    "residual-2d": Variant(
        "2d", {"patch_size": [56, 40]}, normalisation="CTNormalization", residual=True
    ),
    # 4 mm between the slices of its grid: nnU-Net then resamples in the plane and across apart.
    "thick-3d": Variant(
        "3d_fullres", {"patch_size": [16, 40, 32], "spacing": [4.0, 1.1, 0.9]}, iterations=120
    ),
}


def make_dataset(data: Path, work: Path, variant: Variant) -> Path:
    """Write the volumes as nnU-Net wants them; return the folder of the held-out ones."""
    raw, held = work / "raw" / DATASET, work / "held"
    images = sorted((data / "images").glob("*.nii.gz"))
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True, exist_ok=True)
    held.mkdir(exist_ok=True)
    for image in images[:HELD_OUT]:
        shutil.copy(image, held / image.name.replace(".nii", "_0000.nii"))
    for image in images[HELD_OUT:]:
        shutil.copy(image, raw / "imagesTr" / image.name.replace(".nii", "_0000.nii"))
        shutil.copy(data / "masks" / image.name, raw / "labelsTr" / image.name)
    labels: dict[str, Any] = {"background": 0, "anterior": 1, "posterior": 2}
    dataset: dict[str, Any] = {
        "channel_names": {"0": "CT" if "CT" in variant.normalisation else "T1"},
        "labels": labels,
        "numTraining": len(images) - HELD_OUT,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
    }
    if variant.regions:
        dataset["labels"] = {"background": 0, "hippocampus": [1, 2], "posterior": 2}
        dataset["regions_class_order"] = [1, 2]
    (raw / "dataset.json").write_text(json.dumps(dataset, indent=1))
    return held


def train(data: Path, work: Path, variant: Variant) -> Path:
    """Plan, preprocess and train with nnU-Net; return the trained folder."""
    make_dataset(data, work, variant)
    for name, folder in (("raw", "raw"), ("preprocessed", "made"), ("results", "trained")):
        os.environ[f"nnUNet_{name}"] = str(work / folder)
        (work / folder).mkdir(parents=True, exist_ok=True)
    os.environ.update({"nnUNet_n_proc_DA": "1"})
    import torch
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprint_dataset,
        plan_experiment_dataset,
        preprocess_dataset,
    )
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    planner = {}
    if variant.residual:
        from nnunetv2.experiment_planning.experiment_planners.residual_unets import (
            residual_encoder_unet_planners,
        )

        planner["experiment_planner_class"] = residual_encoder_unet_planners.nnUNetPlannerResEncM
    extract_fingerprint_dataset(4, num_processes=1, show_progress_bar=False)
    _, identifier = plan_experiment_dataset(4, **planner)
    file = work / "made" / DATASET / f"{identifier}.json"
    plans = json.loads(file.read_text())
    wanted = plans["configurations"][variant.configuration]
    if variant.normalisation == "CTNormalization":
        # Intensities of these volumes differ a thousandfold; those of most, as a CT's would be.
        intensities = plans["foreground_intensity_properties_per_channel"]["0"]
        intensities.update(mean=250.0, std=120.0, percentile_00_5=20.0, percentile_99_5=700.0)
    wanted.update(variant.changes, batch_size=8)
    architecture = wanted["architecture"]["arch_kwargs"]
    architecture["features_per_stage"] = [
        min(16 * 2**n, 64) for n in range(len(architecture["features_per_stage"]))
    ]
    file.write_text(json.dumps(plans, indent=1))
    preprocess_dataset(4, identifier, (variant.configuration,), num_processes=(1,))

    os.environ.update({"nnUNet_n_proc_DA": "0"})
    dataset = json.loads((work / "raw" / DATASET / "dataset.json").read_text())
    for fold in variant.folds:
        torch.manual_seed(fold)
        np.random.seed(fold)
        given = {**copy.deepcopy(plans), "continue_training": False}
        trainer = nnUNetTrainer(
            given, variant.configuration, fold, dataset, device=torch.device("cpu")
        )
        trainer.num_epochs = 1
        trainer.num_iterations_per_epoch = variant.iterations
        trainer.num_val_iterations_per_epoch = 2
        trainer.run_training()
    return Path(trainer.output_folder_base)


@contextmanager
def sums_in_single_precision(wanted: bool) -> Iterator[None]:
    """Within, nnU-Net adds its windows in float32 where it would in half precision."""
    import torch

    half = torch.half
    torch.half = torch.float32 if wanted else half
    try:
        yield
    finally:
        torch.half = half


def compare(trained: Path, held: Path, masks: Path, single: bool = False) -> list[dict[str, float]]:
    """Predict the held-out volumes with both; return Dice between both, and of both to the truth.

    One entry a volume. Both run on one thread, and their times are those of one process.
    """
    import torch
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    from napari_grata.scans import open_scan
    from napari_grata.segmenters import load_segmenter

    predictor = nnUNetPredictor(
        perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(str(trained), None)
    segmenter = load_segmenter(trained, "cpu")
    found = []
    for file in sorted(held.glob("*.nii.gz")):
        start = time.perf_counter()
        data, properties = SimpleITKIO().read_images([str(file)])
        with sums_in_single_precision(single):
            theirs = predictor.predict_single_npy_array(data, properties, None, None, False)
        between = time.perf_counter()
        scan = open_scan(file)
        stack = scan.mask_stack((p.slice_index, p.label_map) for p in segmenter.predict(scan))
        ours = np.asarray(scan.geometry.to_source(stack)).T
        end = time.perf_counter()
        truth = open_scan(masks / file.name.replace("_0000", ""))
        known = np.asarray(truth.geometry.to_source(np.asarray(truth.data))).T
        found.append(
            {
                "between": min(dice(ours, theirs, value) for value in (1, 2)),
                "different voxels": int((ours != theirs).sum()),
                "structure voxels": int((theirs > 0).sum()),
                "ours to truth": float(np.mean([dice(ours, known, value) for value in (1, 2)])),
                "theirs to truth": float(np.mean([dice(theirs, known, value) for value in (1, 2)])),
                "seconds nnU-Net": between - start,
                "seconds ours": end - between,
            }
        )
    return found


def dice(first: np.ndarray, second: np.ndarray, value: int) -> float:
    """Dice of one label; 1 where both are empty."""
    one, other = first == value, second == value
    total = int(one.sum() + other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0


def main() -> int:
    """Train what is missing, compare, print; 1 where a Dice between both is below 0.999."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", choices=VARIANTS, action="append")
    parser.add_argument("--single", action="store_true", help="nnU-Net's sums in float32")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    lowest = 1.0
    for name in options.only or VARIANTS:
        work = options.work / name
        there = list(work.glob("trained/*/*/plans.json"))
        trained = there[0].parent if there else train(options.data, work, VARIANTS[name])
        found = compare(trained, work / "held", options.data / "masks", options.single)
        lowest = min(lowest, *(one["between"] for one in found))
        if not any(one["structure voxels"] for one in found):
            print(f"{name}: both masks are empty, which compares nothing; train it for longer")
            lowest = 0.0
        print(f"{name}: {len(found)} volumes")
        for key in found[0]:
            values = [one[key] for one in found]
            print(f"  {key:<18} mean {np.mean(values):.4f}  lowest {min(values):.4f}")
    print(f"lowest Dice between both: {lowest:.5f}")
    return int(lowest < 0.999)


if __name__ == "__main__":
    raise SystemExit(main())
