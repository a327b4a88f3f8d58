"""MONAI bundles: a folder with a configuration, what is said of the model, and weights.

A bundle's configuration is a program. None of it is run: references and plain values are looked up
here, the network is one of a list of MONAI's own (extra ``monai``), and transforms and inferer are
turned into a plan (see `planned`). What is not known is named, and the bundle is not opened.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from napari_grata.scans.files import sha256_of

from .card import Card, CardLoader, Structure, structure_colours
from .card_fields import ModelError, shortened
from .checkpoint import read_checkpoint, state_dict
from .exported import TorchScriptFolder
from .factory import build_network
from .loaders import (
    LoadedModel,
    Loader,
    fill_network,
    read_file,
    register_loader,
)

if TYPE_CHECKING:
    from torch import nn

ARCHITECTURE = "monai"
NETWORKS = (
    "UNet",
    "BasicUNet",
    "DynUNet",
    "SegResNet",
    "VNet",
    "UNETR",
    "SwinUNETR",
    "AttentionUnet",
    "HighResNet",
    "FlexibleUNet",
)
"""Networks of `monai.networks.nets` that segment, and fetch nothing from anywhere."""
_CONFIGS = ("inference.json", "inference.yaml", "inference.yml")
_READERS = (None, "NibabelReader", "ITKReader", "PILReader", "NumpyReader")
# What changes nothing that a scan is not here already, or comes after the mask.
_PLAIN = (
    *("LoadImage", "EnsureChannelFirst", "AsChannelFirst", "AddChannel", "EnsureType", "ToTensor"),
    *("CastToType", "ToDevice", "Identity", "SelectItems", "SaveImage", "CopyItems", "DeleteItems"),
)
# They tidy masks up. That is left to whoever reviews the mask, and said.
_TIDYING = ("KeepLargestConnectedComponent", "RemoveSmallObjects", "FillHoles")
_INTENSITIES = {
    "ScaleIntensity": ("minv", "maxv", "channel_wise"),
    "ScaleIntensityRange": ("a_min", "a_max", "b_min", "b_max", "clip"),
    "ScaleIntensityRangePercentiles": ("lower", "upper", "b_min", "b_max", "clip", "channel_wise"),
    "NormalizeIntensity": ("subtrahend", "divisor", "nonzero", "channel_wise"),
}
# Arguments of a transform that are followed here; any other must be as MONAI has it by itself.
_FOLLOWED = {
    **_INTENSITIES,
    "Orientation": ("axcodes", "as_closest_canonical", "labels"),
    "Spacing": ("pixdim", "mode", "recompute_affine"),
    "Resize": ("spatial_size", "mode"),
    "Activations": ("softmax", "sigmoid"),
    "AsDiscrete": ("argmax", "threshold", "to_onehot"),
    "Invert": ("nearest_interp", "transform", "orig_keys", "to_tensor", "meta_keys"),
    "SlidingWindowInferer": ("roi_size", "sw_batch_size", "overlap", "mode", "progress"),
    "SimpleInferer": (),
}
_ANYWHERE = (
    "keys",
    "allow_missing_keys",
    "dtype",
    "device",
    "sw_device",
    "lazy",
    "cache_roi_weight_map",
)
_DEFAULTS = (None, False, "border", "constant", "all", 0, 0.125)


class BundleError(ModelError):
    """A bundle that is incomplete, or asks for what is not done here."""


@register_loader
class MonaiBundle(Loader):
    """A folder with ``configs/metadata.json``, ``configs/inference.*`` and ``models/model.*``."""

    kind = "MONAI bundle"

    def takes(self, path: Path) -> bool:
        return _root(path) is not None

    def load(self, path: Path) -> LoadedModel:
        root = _root(path)
        assert root is not None
        weights, program = root / "models" / "model.pt", root / "models" / "model.ts"
        scripted = not weights.is_file()
        if scripted and not program.is_file():
            raise BundleError(
                f"{root} holds neither models/model.pt nor models/model.ts. Bundles are often "
                "shared without them: download the weights that its docs/README.md names."
            )
        card = describe(root, program if scripted else weights)
        if scripted:
            return TorchScriptFolder().read_program(card, program)
        network: Any = build_network(card)
        state = state_dict(read_checkpoint(weights), weights)
        # Some containers hold their layers twice; some heads help in training alone.
        kept = {key.removeprefix("folds.0.") for key in network.state_dict()}
        twice = set(network.folds[0].state_dict()) - kept
        state = {
            f"folds.0.{key}": tensor
            for key, tensor in state.items()
            if key not in twice and not key.startswith("deep_supervision_heads.")
        }
        fill_network(network, state, origin=str(weights))
        return LoadedModel(card, network)


def build(*, network: Mapping[str, Any], outputs: int, channels: int) -> nn.Module:
    """Build the network of a card's arguments.

    Raises
    ------
    ImportError
        MONAI is not installed; the message says how.
    """
    try:
        from monai.networks import nets
    except ImportError as error:
        raise ImportError(
            "networks of MONAI need the package monai: pip install 'napari-grata[monai]', then try "
            "again."
        ) from error
    arguments = dict(network)
    name = arguments.pop("class")
    if name not in NETWORKS or not hasattr(nets, name):
        raise ValueError(f"the network {name!r} is not among {', '.join(NETWORKS)}")
    wanted = {"out_channels": outputs, "in_channels": channels}
    for key, number in wanted.items():
        if arguments.get(key, number) != number:
            raise ValueError(f"{key} is {arguments[key]}, but the card describes {number}")
    made: nn.Module = getattr(nets, name)(**arguments)
    return made


def _root(path: Path) -> Path | None:
    """Return the folder of the bundle that a path means: itself, or one of its files."""
    for root in (path, path.parent.parent):
        if (root / "configs" / "metadata.json").is_file() and _config_file(root) is not None:
            return root if path == root or path.parent.name in ("configs", "models") else None
    return None


def _config_file(root: Path) -> Path | None:
    found = [root / "configs" / name for name in _CONFIGS]
    return next((file for file in found if file.is_file()), None)


# -- configurations, read and never run ------------------------------------------------------


class _Config:
    """A configuration in which references are followed and nothing is evaluated."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            text = read_file(file).decode("utf-8")
            found = json.loads(text) if file.suffix == ".json" else yaml.load(text, CardLoader)
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            raise BundleError(f"{file} cannot be read ({str(error)[:200]}).") from error
        if not isinstance(found, dict):
            raise BundleError(f"{file} should hold names and values; it is a list or a number.")
        self.content = found

    def first(self, *names: str) -> Any:
        """Return the first of these entries that is there; None without any."""
        return next((self.followed(self.content[n], n) for n in names if n in self.content), None)

    def followed(self, given: Any, where: str, most: int = 20) -> Any:
        """Return what a reference or a plain value in quotes stands for.

        Raises
        ------
        BundleError
            It is an expression, or refers to what is not there or to itself.
        """
        if not isinstance(given, str) or given[:1] not in ("$", "@", "%"):
            return given
        text = given.removeprefix("$").strip()
        if most and re.fullmatch(r"@\w+((#|::)\w+)*", text):
            place: Any = self.content
            for name in re.split("#|::", text[1:]):
                if isinstance(place, list) and name.isdigit() and int(name) < len(place):
                    place = place[int(name)]
                elif isinstance(place, Mapping) and name in place:
                    place = place[name]
                else:
                    raise BundleError(f"{self.file}: {where} refers to {text}, which is not there.")
            return self.followed(place, where, most - 1)
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise BundleError(
                f"{self.file}: {where} is computed, {shortened(given)}. A configuration is a "
                "program, and nothing of it is run here: put the value itself in its place."
            ) from None

    def value(self, given: Any, where: str, most: int = 20) -> Any:
        """Return a value with all references in it followed."""
        given = self.followed(given, where)
        if isinstance(given, (Mapping, list)) and not most:
            raise BundleError(f"{self.file}: {where} is nested too deep, or refers to itself.")
        if isinstance(given, Mapping):
            return {k: self.value(v, f"{where}: {k}", most - 1) for k, v in given.items()}
        return [self.value(v, where, most - 1) for v in given] if isinstance(given, list) else given

    def component(self, given: Any, where: str) -> tuple[str, dict[str, Any]]:
        """Return name and arguments of something that MONAI would make.

        Arguments that are followed here are values; of the others it is checked that they leave
        the transform as it is.
        """
        given = self.followed(given, where)
        if not isinstance(given, Mapping) or not isinstance(given.get("_target_"), str):
            raise BundleError(f"{self.file}: {where} names no '_target_' of MONAI's.")
        name = re.sub(r"^(monai\.[\w.]*\.)?(\w+?)(d|D|Dict)?$", r"\2", given["_target_"])
        arguments = {k: v for k, v in given.items() if not k.startswith("_")}
        if name not in _FOLLOWED:
            return name, arguments
        found = {}
        for key, one in arguments.items():
            if key in _FOLLOWED[name] and key not in ("transform", "orig_keys"):
                found[key] = self.value(one, f"{where}: {name}: {key}")
            elif key not in (*_FOLLOWED[name], *_ANYWHERE) and one not in _DEFAULTS:
                raise BundleError(
                    f"{self.file}: {where}: {name} with {key}: {shortened(one)} is not done here."
                )
        return name, found

    def chain(self, *names: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the components of a chain of transforms, without those that are off."""
        chain = self.first(*names) or ()
        chain = chain.get("transforms", ()) if isinstance(chain, Mapping) else chain
        for one in self.followed(chain, names[0]):
            one = self.followed(one, names[0])
            off = isinstance(one, Mapping) and one.get("_disabled_", False)
            keys = self.value(one.get("keys"), names[0]) if isinstance(one, Mapping) else None
            if keys not in ("label", ["label"]) and self.followed(off, names[0]) is not True:
                yield self.component(one, names[0])


# -- what a bundle says of itself ------------------------------------------------------------


def describe(root: Path, weights: Path) -> Card:
    """Draft the card of a bundle.

    Raises
    ------
    BundleError, CardError
        A file is missing or damaged, or the model needs what this version does not have.
    """
    file = _config_file(root)
    assert file is not None
    config, about = _Config(file), _Config(root / "configs" / "metadata.json").content
    try:
        formats = about.get("network_data_format") or {}
        inputs = next(iter((formats.get("inputs") or {"image": {}}).values()))
        output = next(iter((formats.get("outputs") or {"pred": {}}).values()))
        scripted = weights.suffix == ".ts"
        network = {} if scripted else _network(config)
        sides = inputs.get("spatial_shape") or ()
        dims = int(network.get("spatial_dims") or len(sides) or 3)
        channels = int(network.get("in_channels") or inputs["num_channels"])
        outputs = int(network.get("out_channels") or output["num_channels"])
        activation, afterwards, left_out = _afterwards(config, output)
        plan = {**_inferer(config, dims), **_before(config, dims), **afterwards}
        if "patch" not in plan:
            plan["patch"] = plan.get("size") or [0] * dims
        if dims == 3 and not all(plan["patch"]):
            raise BundleError(
                f"{file} predicts whole volumes at once; give it a SlidingWindowInferer."
            )
    except (KeyError, TypeError, AttributeError, StopIteration, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise BundleError(
            f"{file} or metadata.json is not as MONAI's bundles are: {type(error).__name__} "
            f"{str(error)[:100]}."
        ) from error
    first = int(activation == "softmax")
    names = {str(k): str(v) for k, v in (output.get("channel_def") or {}).items()}
    numbers = range(first, outputs)
    structures = tuple(
        Structure(names.get(str(n)) or f"structure {n + 1 - first}", colour, n + 1 - first)
        for n, colour in zip(numbers, structure_colours(len(numbers)), strict=True)
    )
    title, modality = str(about.get("name") or root.name), str(inputs.get("modality") or "unknown")
    said = {str(k): str(v) for k, v in (inputs.get("channel_def") or {}).items()}
    named = tuple(said.get(str(n)) or f"image {n + 1}" for n in range(channels))
    # A flat image of a body is a slice of a volume rather than a photograph.
    body = re.match(r"ct|mr|t1|t2|flair|pet|us|ultrasound|x-?ray", modality.lower())
    pictures = dims == 2 and (channels == 3 or not body)
    digest = sha256_of(weights)
    stem = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60].strip("-") or "bundle"
    data = str(about.get("data_source") or "not stated in the bundle")[:500]
    arguments = {} if scripted else {"network": network}
    return Card(
        name=f"{stem}-{digest[:6]}",
        title=f"{title} (MONAI)",
        version=str(about.get("version") or "1"),
        task=str(about.get("task") or about.get("description") or "")[:500],
        structures=structures,
        activation=activation,
        architecture="torchscript" if scripted else ARCHITECTURE,
        arguments={**arguments, "plan": plan},
        channels=channels,
        inputs=named if channels > 1 and not (pictures and channels == 3) else (),
        normalisation={"kind": "planned"},
        modality=modality,
        dimensions=2 if pictures else 3,
        source_centre="not stated in the bundle",
        training_data=({"name": data, "terms": "not stated in the bundle"},),
        weights_sha256=digest,
        intended_use=str(about.get("intended_use") or "Research and education only.")[:1000],
        limits=f"Drafted from {file.name}.{left_out}",
        licence=str(about.get("license") or about.get("copyright") or "not stated")[:500],
        views=("identity",),
    )


def _network(config: _Config) -> dict[str, Any]:
    given = config.first("network_def", "net_def", "network", "net")
    where = f"{config.file}: network_def"
    if not isinstance(given, Mapping) or not isinstance(given.get("_target_"), str):
        raise BundleError(f"{where} names no '_target_', a network of monai.networks.nets.")
    name = re.sub(r"^monai\.networks\.nets\.(\w+\.)?", "", given["_target_"])
    if name not in NETWORKS:
        raise BundleError(
            f"{where} is {given['_target_']}; this version builds {', '.join(NETWORKS)} of "
            "monai.networks.nets. A bundle with a models/model.ts alone needs none of them."
        )
    found: dict[str, Any] = {
        key: config.value(value, f"network_def: {key}")
        for key, value in given.items()
        if not key.startswith("_")
    }
    for key in ("pretrained", "deep_supervision"):  # fetches weights; heads for training alone
        if found.get(key):
            found[key] = False
    return {"class": name, **found}


def _inferer(config: _Config, dims: int) -> dict[str, Any]:
    name, given = config.component(config.first("inferer") or {}, "inferer")
    if name == "SimpleInferer":
        return {}
    if name != "SlidingWindowInferer":
        raise BundleError(
            f"{config.file}: the inferer {name} is not known here; SlidingWindowInferer and "
            "SimpleInferer are."
        )
    sides = given["roi_size"]
    sides = [sides] * dims if isinstance(sides, int) else list(sides)
    if len(sides) != dims or not all(isinstance(n, int) and n > 0 for n in sides):
        raise BundleError(f"{config.file}: roi_size is {sides}; give {dims} sides above 0.")
    return {
        "patch": sides,
        "overlap": given.get("overlap", 0.25),
        "gaussian": str(given.get("mode", "constant")).lower() == "gaussian",
    }


def _before(config: _Config, dims: int) -> dict[str, Any]:
    """Return what the transforms before the network become in a plan."""
    plan: dict[str, Any] = {}
    steps: list[dict[str, Any]] = []
    unknown = []
    for name, given in config.chain("preprocessing", "pre_transforms", "preprocess"):
        mode = given.get("mode")
        mode = mode[0] if isinstance(mode, list) else mode
        if name == "Orientation" and dims == 3 and "orientation" not in plan:
            canonical = given.get("as_closest_canonical")
            plan["orientation"] = "RAS" if canonical else str(given["axcodes"])
        elif name in ("Spacing", "Resize") and not {"spacing", "size"} & set(plan):
            if mode not in (("bilinear", None) if name == "Spacing" else ("bilinear", "trilinear")):
                raise BundleError(f"{config.file}: {name} with mode {mode} is not done here.")
            numbers = given["pixdim" if name == "Spacing" else "spatial_size"]
            numbers = numbers if isinstance(numbers, list) else [numbers]
            numbers = [*numbers, *numbers[-1:] * dims][:dims]
            if name == "Spacing":
                plan["spacing"] = [float(number) for number in numbers]
            else:
                plan["size"] = [int(number) for number in numbers]
            plan["before"], steps = steps, []
        elif name in _INTENSITIES:
            steps.append(_intensities(name, given))
        elif name not in _PLAIN or (name == "LoadImage" and given.get("reader") not in _READERS):
            unknown.append(name)
    if unknown:
        raise BundleError(
            f"{config.file}: preprocessing asks for {', '.join(dict.fromkeys(unknown))}, which is "
            f"not done here, or not there or not twice. Known are Orientation (3-D), Spacing or "
            f"Resize, {', '.join(_INTENSITIES)}."
        )
    return {**plan, "steps": steps}


def _intensities(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        key: bool(given[key]) for key in ("channel_wise", "nonzero", "clip") if given.get(key)
    }
    if name == "NormalizeIntensity":
        found["kind"], of = "z-score", [given.get("subtrahend"), given.get("divisor")]
        if of != [None, None]:
            found["of"] = [float(one) for one in of]  # type: ignore[arg-type]
        return found
    if name == "ScaleIntensity":
        kind, ends = "min-max", [given.get("minv", 0.0), given.get("maxv", 1.0)]
    elif name == "ScaleIntensityRange":
        kind, ends = "range", [given.get("b_min"), given.get("b_max")]
        found["of"] = [float(given["a_min"]), float(given["a_max"])]
    else:
        kind, ends = "percentiles", [given["b_min"], given["b_max"]]
        found["of"] = [float(given["lower"]), float(given["upper"])]
    if None in ends:
        found.pop("clip", None)
    else:
        found["to"] = [float(end) for end in ends]
    return {"kind": kind, **found}


def _afterwards(config: _Config, output: Mapping[str, Any]) -> tuple[Any, dict[str, Any], str]:
    """Return activation, the way back for the plan, and a sentence on what is left out."""
    activation, drawn, back, left_out, unknown = None, "", {}, [], []
    for name, given in config.chain("postprocessing", "post_transforms", "postprocess"):
        if name == "Activations":
            activation = next((k for k in ("softmax", "sigmoid") if given.get(k)), activation)
        elif name == "AsDiscrete":
            drawn = "argmax" if given.get("argmax") else f"threshold {given.get('threshold')}"
        elif name == "Invert":
            back = {"nearest": bool(given.get("nearest_interp", True))}
        elif name in _TIDYING:
            left_out.append(name)
        elif name not in _PLAIN:
            unknown.append(name)
    if unknown:
        raise BundleError(
            f"{config.file}: postprocessing asks for {', '.join(unknown)}, which is not done here."
        )
    if drawn == "argmax" or (output.get("channel_def") or {}).get("0") == "background":
        activation = "softmax"  # of which the largest is the largest before
    allowed = {"softmax": ("", "argmax"), "sigmoid": ("", "threshold 0.5")}
    if drawn not in allowed.get(activation or "", ()):
        raise BundleError(
            f"{config.file}: postprocessing should say softmax with argmax, or sigmoid with a "
            f"threshold of 0.5; it says {activation or 'neither'}, {drawn or 'no more'}."
        )
    told = f" Masks are not tidied up: without {', '.join(left_out)}." if left_out else ""
    return activation, back, told
