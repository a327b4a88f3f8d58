"""Folders that nnU-Net v2 trained (Isensee et al., Nature Methods 2021): plans, labels, folds.

``plans.json``, ``dataset.json`` and ``fold_*/checkpoint_final.pth`` become a card and a network;
nnU-Net itself is not needed, only the networks of ``dynamic-network-architectures`` (extra
``nnunet``). Added to the user's models, such a folder is a card whose ``arguments`` hold what the
plans say, and the weights of all folds as safetensors. How a scan is read by it is told in
`nnunet_segmenter`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from napari_grata.scans.files import read_json, sha256_of

from .card import Card, Structure, plain, structure_colours
from .card_fields import ModelError
from .checkpoint import WeightsError, read_checkpoint
from .factory import build_network
from .loaders import LoadedModel, Loader, fill_network, register_loader

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from typing_extensions import Self

PLANS, DATASET, CHECKPOINT = "plans.json", "dataset.json", "checkpoint_final.pth"
ARCHITECTURE = "nnunet"
NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet")
SCHEMES = (
    "ZScoreNormalization",
    "CTNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
)
READERS = ("SimpleITKIO", "NibabelIO", "NibabelIOWithReorient", "NaturalImage2DIO", "Tiff3DIO")
_RESAMPLING = "resample_data_or_seg_to_shape"
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


class PlansError(ModelError):
    """An nnU-Net folder that is incomplete, contradicts itself or asks for what is not there."""


STRICT = ConfigDict(extra="forbid")


class KeptPlan:
    """What plans have in common that a card keeps in its arguments."""

    patch: tuple[int, ...]

    @classmethod
    def from_arguments(cls, kept: Mapping[str, Any]) -> Self:
        """Return the plan that a card keeps in its arguments; ValueError says what is wrong."""
        try:
            return TypeAdapter(cls).validate_python(dict(kept))
        except ValidationError as error:
            first = error.errors()[0]
            where = " ".join(map(str, first["loc"]))
            raise ValueError(f"its plan: {where} {first['msg']}") from None

    @property
    def is_2d(self) -> bool:
        """Whether the network reads slices."""
        return len(self.patch) == 2


@checked(frozen=True, config=STRICT)
class Plan(KeptPlan):
    """What the plans say of one configuration; axes are those after nnU-Net's transposition.

    Attributes
    ----------
    configuration : str
        ``"2d"``, ``"3d_fullres"``, ``"3d_lowres"``.
    reader : str
        nnU-Net's reader, which decides how a file's axes lie in its array.
    transpose : tuple of int
        Axis of the file's array, slowest first, that each axis of the plan is.
    spacing : tuple of float
        In mm, of the grid that the network reads; two of them for 2d.
    patch : tuple of int
        Window that the network reads at a time.
    schemes, masked, intensities
        One a channel: the kind of normalisation, whether it looks at non-zero voxels alone, and
        the training's intensities (mean, std, low, high) or None.
    data_order, data_order_z : int
        Splines with which an image is resampled; the second along an axis taken by itself.
    separate : bool or None
        Whether the thickest axis is taken by itself; None: where it is three times as thick.
    mirror : tuple of int
        Axes of the patch over which predictions may be mirrored.
    """

    configuration: str
    reader: str
    transpose: tuple[int, ...]
    spacing: tuple[float, ...]
    patch: tuple[int, ...]
    schemes: tuple[str, ...]
    masked: tuple[bool, ...]
    intensities: tuple[Mapping[str, float] | None, ...]
    data_order: int = 3
    data_order_z: int = 0
    separate: bool | None = None
    mirror: tuple[int, ...] = ()


@register_loader
class NNUNetFolder(Loader):
    """A folder that nnU-Net v2 trained; all its folds are taken together."""

    kind = "nnU-Net"

    def takes(self, path: Path) -> bool:
        return _trained_folder(path) is not None

    def load(self, path: Path) -> LoadedModel:
        folder = _trained_folder(path)
        assert folder is not None
        files = _checkpoints(folder)
        found = {fold: _checkpoint(file) for fold, file in files.items()}
        card = describe(folder, found)
        network = build_network(card)
        state = {
            f"folds.{number}.{key}": tensor
            for number, checkpoint in enumerate(found.values())
            for key, tensor in _weights(checkpoint).items()
        }
        wanted = set(network.state_dict())
        state = {key: tensor for key, tensor in state.items() if key in wanted or not _twin(key)}
        try:
            fill_network(network, state, origin=str(folder))
        except WeightsError as error:
            trainers = ", ".join(sorted({str(c.get("trainer_name")) for c in found.values()}))
            raise WeightsError(
                f"{error} The weights are not those of the network in {PLANS}: it was trained by "
                f"{trainers}, which may build another."
            ) from None
        left_out = ", ".join(one.name for one in _folds(folder) if one.name not in files)
        told = f"{left_out} holds no {CHECKPOINT} and takes no part in the prediction."
        return LoadedModel(card, network, (told,) if left_out else ())


def _twin(key: str) -> bool:
    """Whether a tensor is in the checkpoint a second time, under the name of its container."""
    return ".all_modules." in key or ".decoder.encoder." in key


def _trained_folder(path: Path) -> Path | None:
    """Return the trained folder that a path means: itself, its plans or one of its folds."""
    for folder in (path, path.parent, path.parent.parent):
        if os.path.isfile(folder / PLANS) and os.path.isfile(folder / DATASET):
            inside = path == folder or path.name in (PLANS, DATASET, CHECKPOINT)
            return folder if inside or path.name.startswith("fold_") else None
    if os.path.isdir(path):
        trained = [file.parent for file in path.glob(f"*/{PLANS}")]
        if len(trained) == 1:
            return _trained_folder(trained[0])
        if trained:
            names = ", ".join(sorted(folder.name for folder in trained))
            raise PlansError(f"{path} holds several trained folders; choose one of: {names}.")
        if any(path.glob(f"fold_*/{CHECKPOINT}")) or os.path.isfile(path / PLANS):
            missing = [name for name in (PLANS, DATASET) if not os.path.isfile(path / name)]
            raise PlansError(
                f"{path} looks like a folder that nnU-Net trained, but {' and '.join(missing)} is "
                "missing. Copy the whole folder (nnUNetTrainer__…) from nnUNet_results."
            )
    return None


def _folds(folder: Path) -> list[Path]:
    found = [one for one in folder.glob("fold_*") if one.is_dir()]
    numbered = [one for one in found if one.name != "fold_all"]
    return sorted(numbered or found, key=lambda one: (len(one.name), one.name))


def _checkpoints(folder: Path) -> dict[str, Path]:
    files = {one.name: one / CHECKPOINT for one in _folds(folder) if (one / CHECKPOINT).is_file()}
    if not files:
        there = ", ".join(one.name for one in _folds(folder)) or "no fold_* at all"
        raise PlansError(
            f"{folder} holds no fold_*/{CHECKPOINT} ({there}). nnU-Net writes it when a training "
            "is through; finish one, or copy the fold's folder too."
        )
    return files


def _checkpoint(file: Path) -> dict[str, Any]:
    """Read what a training kept: tensors, plain values and NumPy's scalars, nothing else."""
    import numpy as np

    core = getattr(np, "_core", None) or np.core
    scalar = core.multiarray.scalar
    kinds = ("float64", "float32", "int64", "int32", "bool")
    # Written by NumPy before 2, or since.
    named = [(scalar, f"numpy.{c}.multiarray.scalar") for c in ("core", "_core")]
    dtypes = [type(np.dtype(kind)) for kind in kinds]
    found = read_checkpoint(file, [scalar, np.dtype, *dtypes, *named])
    if not isinstance(found, dict) or not isinstance(found.get("network_weights"), Mapping):
        raise WeightsError(
            f"{file} is a checkpoint, but not one of nnU-Net v2 (it has no 'network_weights')."
        )
    return found


def _weights(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    prefix = re.compile(r"^(module\.|_orig_mod\.)+")
    return {prefix.sub("", str(k)): v for k, v in checkpoint["network_weights"].items()}


def _json(file: Path) -> dict[str, Any]:
    try:
        return read_json(file)
    except (OSError, ValueError) as error:
        raise PlansError(f"{file} cannot be read as JSON ({str(error)[:200]}).") from error


# -- what the folder says of itself ----------------------------------------------------------


def describe(folder: Path, checkpoints: Mapping[str, Mapping[str, Any]]) -> Card:
    """Draft the card of a trained folder.

    Parameters
    ----------
    folder : Path
    checkpoints : mapping of str to mapping
        What each fold's checkpoint holds.

    Raises
    ------
    PlansError, CardError
        A file is missing or damaged, or the model needs what this version does not have.
    """
    plans, dataset = _json(folder / PLANS), _json(folder / DATASET)
    try:
        plan, network = _plan(folder, plans, dataset, checkpoints)
        structures, activation = _structures(dataset, folder)
    except ModelError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise PlansError(
            f"{folder / PLANS} or {DATASET} is not as nnU-Net v2 writes it: {type(error).__name__} "
            f"{str(error)[:100]}. Copy both again from the folder in nnUNet_results."
        ) from error
    channels = list(_channel_names(dataset).values())
    data = str(plans.get("dataset_name") or dataset.get("name") or folder.parent.name)
    about = re.sub(r"^Dataset\d+_", "", data).replace("_", " ")
    pictures = str(dataset.get("file_ending", "")).lower() in _PICTURES
    digest = hashlib.sha256()
    for fold in checkpoints:
        digest.update(sha256_of(folder / fold / CHECKPOINT).encode())
    stem = re.sub(r"[^a-z0-9]+", "-", f"{data}-{plan.configuration}".lower()).strip("-")
    terms = dataset.get("licence") or dataset.get("license") or "not stated in the folder"
    colour = _is_colour(channels, plan.schemes)
    inputs = () if colour or len(channels) == 1 else tuple(channels)
    return Card(
        name=f"{stem[:60].strip('-')}-{digest.hexdigest()[:6]}",
        title=f"{about} (nnU-Net {plan.configuration})",
        task=str(dataset.get("description") or "")[:500],
        structures=structures,
        activation="sigmoid" if activation == "sigmoid" else "softmax",
        architecture=ARCHITECTURE,
        arguments={
            "plan": plain(asdict(plan)),
            "network": network,
            "folds": [fold.removeprefix("fold_") for fold in checkpoints],
        },
        channels=len(channels),
        inputs=inputs,
        normalisation={"kind": "planned"},
        modality="colour" if colour else channels[0],
        dimensions=2 if pictures else 3,
        source_centre="not stated in the folder",
        training_data=({"name": str(dataset.get("name") or data), "terms": str(terms)},),
        weights_sha256=digest.hexdigest(),
        intended_use="Research and education only, unless those who trained it say otherwise.",
        limits=_limits(plan, checkpoints),
        licence=str(terms),
        views=_views(plan),
    )


def _limits(plan: Plan, checkpoints: Mapping[str, Any]) -> str:
    trainers = ", ".join(sorted({str(one.get("trainer_name")) for one in checkpoints.values()}))
    said = f"Trained by {trainers}, {len(checkpoints)} fold(s); drafted from {PLANS}."
    if not plan.is_2d:
        said += " Reads whole volumes, and adapts to parts of them."
    return said


def _views(plan: Plan) -> tuple[Any, ...]:
    """Views that the network was trained with, as far as its checkpoint allows mirroring."""
    last = len(plan.patch)
    flips = {last - 2: "up-down", last - 1: "left-right"}
    found = [flips[axis] for axis in plan.mirror if axis in flips]
    found = ["identity", *found, *(["rotation-180"] if len(found) == 2 else [])]
    if last == 3 and 0 in plan.mirror:
        found += ["through", *(f"through-{name}" for name in found[1:])]
    return tuple(found)


def _plan(
    folder: Path,
    plans: Mapping[str, Any],
    dataset: Mapping[str, Any],
    checkpoints: Mapping[str, Mapping[str, Any]],
) -> tuple[Plan, dict[str, Any]]:
    names = {str(one["init_args"]["configuration"]) for one in checkpoints.values()}
    if len(names) > 1:
        raise PlansError(f"The folds of {folder} are of several configurations: {names}.")
    name = names.pop()
    made = _configuration(folder, plans, name)
    channels = _channel_names(dataset)
    if made.get("previous_stage"):
        raise PlansError(
            f"{folder} is the second stage of a cascade ({name}), which reads the first one's "
            "masks too. Add the first stage, 3d_lowres, or 3d_fullres, by itself."
        )
    schemes = tuple(str(one) for one in made["normalization_schemes"])
    intensities = plans.get("foreground_intensity_properties_per_channel") or {}
    if len(schemes) != len(channels):
        raise PlansError(
            f"{folder}: {DATASET} names {len(channels)} channels ({', '.join(channels.values())}), "
            f"but {PLANS} normalises {len(schemes)}. They are not of one training."
        )
    for scheme in schemes:
        _known(folder, "the normalisation", scheme, SCHEMES)
    for kind in ("data", "probabilities"):
        asked = str(made.get(f"resampling_fn_{kind}", _RESAMPLING))
        _known(folder, f"the resampling of {kind}", asked, (_RESAMPLING,))
    data = made.get("resampling_fn_data_kwargs") or {}
    logits = made.get("resampling_fn_probabilities_kwargs") or {}
    for key, wanted in (("order", 1), ("order_z", 0)):
        _known(folder, f"logits resampled with {key}", str(logits.get(key, wanted)), (str(wanted),))
    reader = str(plans.get("image_reader_writer", "SimpleITKIO"))
    _known(folder, "the reader", reader, READERS)
    mirrors = {
        tuple(one.get("inference_allowed_mirroring_axes") or ()) for one in checkpoints.values()
    }
    if len(mirrors) > 1:
        raise PlansError(f"The folds of {folder} may be mirrored over different axes: {mirrors}.")
    plan = Plan(
        configuration=name,
        reader=reader,
        transpose=tuple(int(axis) for axis in plans["transpose_forward"]),
        spacing=tuple(float(one) for one in made["spacing"]),
        patch=tuple(int(one) for one in made["patch_size"]),
        schemes=schemes,
        masked=tuple(bool(one) for one in made["use_mask_for_norm"]),
        intensities=tuple(_intensities(intensities.get(str(n))) for n in range(len(schemes))),
        data_order=int(data.get("order", 3)),
        data_order_z=int(data.get("order_z", 0)),
        separate=data.get("force_separate_z"),
        mirror=tuple(sorted(int(axis) for axis in mirrors.pop())),
    )
    for scheme, found in zip(schemes, plan.intensities, strict=True):
        if scheme == "CTNormalization" and found is None:
            raise PlansError(f"{folder / PLANS} lacks the intensities that CTNormalization needs.")
    if sorted(plan.transpose) != [0, 1, 2] or not len(plan.spacing) == len(plan.patch) in (2, 3):
        raise PlansError(
            f"{folder / PLANS}: transposition {plan.transpose}, spacing {plan.spacing} and patch "
            f"{plan.patch} do not go together."
        )
    return plan, _network(folder, made, checkpoints)


def _configuration(folder: Path, plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return one configuration with what it inherits from others."""
    known, seen = plans["configurations"], [name]
    if name not in known:
        raise PlansError(
            f"{folder / PLANS} has no configuration {name!r}, with which the checkpoint was "
            f"trained; it has {', '.join(known) or 'none'}."
        )
    made = dict(known[name])
    while parent := made.pop("inherits_from", None):
        if parent in seen or parent not in known:
            raise PlansError(
                f"{folder / PLANS}: {name} inherits from {parent!r}, which is not there."
            )
        seen.append(parent)
        made = {**known[parent], **made}
    return made


def _known(folder: Path, what: str, asked: str, known: Sequence[str]) -> None:
    if asked not in known:
        raise PlansError(
            f"{folder} asks for {what}: {asked!r}; this version has {', '.join(known)}."
        )


def _channel_names(dataset: Mapping[str, Any]) -> dict[str, str]:
    found = dataset.get("channel_names") or dataset["modality"]
    return {str(key): str(value) for key, value in found.items()}


def _is_colour(names: Sequence[str], schemes: Sequence[str]) -> bool:
    named = [name.lower() for name in names] in (["r", "g", "b"], ["red", "green", "blue"])
    return len(names) == 3 and (named or set(schemes) == {"RGBTo01Normalization"})


def _intensities(found: Mapping[str, Any] | None) -> dict[str, float] | None:
    if found is None:
        return None
    names = {"mean": "mean", "std": "std", "low": "percentile_00_5", "high": "percentile_99_5"}
    return {ours: float(found[theirs]) for ours, theirs in names.items()}


def _network(
    folder: Path, made: Mapping[str, Any], checkpoints: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return class and arguments of the network, of old plans too, in types that a card keeps."""
    if "architecture" in made:
        name = str(made["architecture"]["network_class_name"]).rpartition(".")[2]
        arguments = dict(made["architecture"]["arch_kwargs"])
    else:
        name, arguments = str(made["UNet_class_name"]), _of_old_plans(made)
    _known(folder, "the network", name, NETWORKS)
    # As nnUNetTrainerBN has it; other trainers that change the network are told by their weights.
    weights = _weights(next(iter(checkpoints.values())))
    if any(key.endswith("running_mean") for key in weights):
        arguments["norm_op"] = f"BatchNorm{len(made['patch_size'])}d"
    for key in ("conv_op", "norm_op", "dropout_op", "nonlin", "block"):
        if isinstance(arguments.get(key), str):
            arguments[key] = arguments[key].rpartition(".")[2]
    return {"class": name, **plain(arguments)}


def _of_old_plans(made: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a network from plans of nnU-Net before 2.3."""
    stages, dims = len(made["n_conv_per_stage_encoder"]), len(made["patch_size"])
    blocks = (
        "n_conv_per_stage" if made["UNet_class_name"] == "PlainConvUNet" else "n_blocks_per_stage"
    )
    base, most = made["UNet_base_num_features"], made["unet_max_num_features"]
    return {
        "n_stages": stages,
        "features_per_stage": [min(base * 2**n, most) for n in range(stages)],
        "conv_op": f"Conv{dims}d",
        "kernel_sizes": made["conv_kernel_sizes"],
        "strides": made["pool_op_kernel_sizes"],
        blocks: made["n_conv_per_stage_encoder"],
        "n_conv_per_stage_decoder": made["n_conv_per_stage_decoder"],
        "conv_bias": True,
        "norm_op": f"InstanceNorm{dims}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def _structures(dataset: Mapping[str, Any], folder: Path) -> tuple[tuple[Structure, ...], str]:
    labels = {str(k): v for k, v in dataset["labels"].items() if str(k) != "ignore"}
    parts = {k: tuple(v) if isinstance(v, list) else (v,) for k, v in labels.items()}
    parts = {k: tuple(int(n) for n in v) for k, v in parts.items() if set(v) != {0}}
    if not parts or any(len(v) == 0 for v in parts.values()):
        raise PlansError(f"{folder / DATASET} names no structure in 'labels'.")
    regions = any(len(v) > 1 for v in parts.values())
    colours = list(structure_colours(len(parts)))
    if not regions:
        values = {name: part[0] for name, part in parts.items()}
        if sorted(values.values()) != list(range(1, len(values) + 1)):
            raise PlansError(
                f"{folder / DATASET}: labels should count from 1 without a gap; they are "
                f"{', '.join(map(str, sorted(values.values())))}."
            )
        ordered = sorted(values, key=lambda name: values[name])
        made = (Structure(name, c, values[name]) for name, c in zip(ordered, colours, strict=True))
        return tuple(made), "softmax"
    order = dataset.get("regions_class_order")
    if not isinstance(order, list) or len(order) != len(parts):
        raise PlansError(
            f"{folder / DATASET} has {len(parts)} regions, but 'regions_class_order' is {order!r}."
        )
    found = [
        Structure(name, colour, int(value), _container(name, parts))
        for name, colour, value in zip(parts, colours, order, strict=True)
    ]
    # Later regions are drawn over earlier ones; where one lies inside a later one, none is nested.
    names = list(parts)
    if any(s.inside and names.index(s.inside) > names.index(s.name) for s in found):
        found = [Structure(one.name, one.colour, one.value) for one in found]
    return tuple(found), "sigmoid"


def _container(name: str, parts: Mapping[str, tuple[int, ...]]) -> str | None:
    """The smallest region that holds all of another's labels and more."""
    own = set(parts[name])
    around = [other for other, part in parts.items() if own < set(part)]
    return min(around, key=lambda other: len(parts[other]), default=None)
