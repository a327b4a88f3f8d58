"""The smallest folder that nnU-Net v2 could have trained, made without nnU-Net."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

#: Plans of a training in slices of 1 mm, as nnU-Net writes them.
CONFIGURATION: dict[str, Any] = {
    "data_identifier": "nnUNetPlans_2d",
    "preprocessor_name": "DefaultPreprocessor",
    "batch_size": 2,
    "patch_size": [32, 32],
    "spacing": [1.0, 1.0],
    "normalization_schemes": ["ZScoreNormalization"],
    "use_mask_for_norm": [False],
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": {
        "is_seg": False,
        "order": 3,
        "order_z": 0,
        "force_separate_z": None,
    },
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": {
        "is_seg": False,
        "order": 1,
        "order_z": 0,
        "force_separate_z": None,
    },
    "architecture": {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": [4, 8, 8],
            "conv_op": "torch.nn.modules.conv.Conv2d",
            "kernel_sizes": [[3, 3], [3, 3], [3, 3]],
            "strides": [[1, 1], [2, 2], [2, 2]],
            "n_conv_per_stage": [1, 1, 1],
            "n_conv_per_stage_decoder": [1, 1],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    },
}
PLANS: dict[str, Any] = {
    "dataset_name": "Dataset004_Hippocampus",
    "plans_name": "nnUNetPlans",
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "foreground_intensity_properties_per_channel": {
        "0": {
            "mean": 60.0,
            "std": 25.0,
            "percentile_00_5": 5.0,
            "percentile_99_5": 150.0,
        }
    },
    "configurations": {"2d": CONFIGURATION},
}
DATASET: dict[str, Any] = {
    "channel_names": {"0": "T1"},
    "labels": {"background": 0, "anterior": 1, "posterior": 2},
    "numTraining": 3,
    "file_ending": ".nii.gz",
}
_DIMS = {"Conv2d": "Conv3d", "InstanceNorm2d": "InstanceNorm3d"}


def plans_3d(**changes: Any) -> dict[str, Any]:
    """Return plans with a configuration ``3d_fullres`` in place of 2d."""
    plans = copy.deepcopy(PLANS)
    made = plans["configurations"].pop("2d")
    network = made["architecture"]["arch_kwargs"]
    for key in ("conv_op", "norm_op"):
        path, _, name = network[key].rpartition(".")
        network[key] = f"{path}.{_DIMS[name]}"
    network.update(kernel_sizes=[[3, 3, 3]] * 3, strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]])
    made.update({"patch_size": [8, 16, 16], "spacing": [1.0, 1.0, 1.0], **changes})
    plans["configurations"]["3d_fullres"] = made
    return plans


def write_trained(
    folder: Path,
    plans: dict[str, Any] = PLANS,
    dataset: dict[str, Any] = DATASET,
    folds: tuple[str, ...] = ("0",),
    mirror: tuple[int, ...] | None = (0, 1),
    **changes: Any,
) -> Path:
    """Write a trained folder with seeded weights; return it.

    Parameters
    ----------
    folder : Path
    plans, dataset : dict
        ``changes`` go into the plans' one configuration.
    folds : tuple of str
    mirror : tuple of int or None
        Axes over which the checkpoints allow mirroring.
    """
    from dynamic_network_architectures.architectures import unet

    plans = copy.deepcopy(plans)
    ((name, made),) = plans["configurations"].items()
    made.update(copy.deepcopy(changes))
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    architecture = made["architecture"]
    arguments = dict(architecture["arch_kwargs"])
    for key in ("conv_op", "norm_op", "nonlin"):
        arguments[key] = getattr(torch.nn, arguments[key].rpartition(".")[2])
    labels = dataset["labels"]
    regions = "regions_class_order" in dataset
    network_class = getattr(unet, architecture["network_class_name"].rpartition(".")[2])
    for number, fold in enumerate(folds):
        torch.manual_seed(number)
        network = network_class(
            input_channels=len(dataset["channel_names"]),
            num_classes=len(labels) - regions,
            deep_supervision=True,
            **arguments,
        )
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        checkpoint = {
            "network_weights": network.state_dict(),
            "logging": {"mean_fg_dice": [np.float64(0.5), np.float32(0.6)]},
            "_best_ema": np.float64(0.5),
            "init_args": {
                "configuration": name,
                "fold": fold,
                "plans": plans,
                "dataset_json": dataset,
                "device": torch.device("cpu"),
            },
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": mirror,
        }
        (folder / f"fold_{fold}").mkdir()
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder
