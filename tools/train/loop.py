"""Train a source segmenter: one call, seeded, resumable, with weights and card at the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from napari_grata.segmenters.devices import resolve_device
from napari_grata.segmenters.extent import measure_extents
from napari_grata.segmenters.loaders import build_network, write_model

from .checkpoint import load_checkpoint, save_checkpoint
from .data import (
    LabelledCase,
    PhotographSource,
    TrainingError,
    VolumeSource,
    find_cases,
    labelled_scans,
    split_cases,
)
from .evaluate import evaluate_model, write_steadiness
from .recipes import Recipe, find_recipe


@dataclass(frozen=True)
class Progress:
    """How far a training is: ``done`` of ``total`` epochs, and a line to show."""

    done: int
    total: int
    message: str
    loss: float = math.nan


Report = Callable[[Progress], None]
Source = PhotographSource | VolumeSource


def train(
    recipe: str | Recipe,
    data_root: str | Path,
    out: str | Path,
    *,
    epochs: int | None = None,
    seed: int = 0,
    resume: bool = False,
    progress: Report | None = None,
    device: str = "auto",
) -> Path:
    """Train a bundled model again.

    Parameters
    ----------
    recipe : str or Recipe
        A name in `RECIPES`, or a recipe of one's own.
    data_root : path
        The folder that holds the data sets, or the source centre itself.
    out : path
        The model's folder: weights, card, and ``checkpoint/`` until it is finished.
    epochs : int, optional
        Other than the recipe's number.
    seed : int
        Of split, weights and views. On one machine, one seed gives one model, whether or not
        the training was interrupted.
    resume : bool
        Go on from the checkpoint in ``out``.
    progress : callable, optional
        Called with a `Progress` after each epoch and at the end. An exception raised in it stops
        the training; what was done up to the last epoch can be resumed.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda:0"``, ...

    Returns
    -------
    Path
        The model's folder, with the figures on the held-out cases in its card.

    Raises
    ------
    TrainingError
        Unknown recipe, unusable data, a checkpoint that does not fit, or a loss that is not
        finite.
    """
    recipe = find_recipe(recipe) if isinstance(recipe, str) else recipe
    data_root, out, report = Path(data_root), Path(out), progress or (lambda _: None)
    target = resolve_device(device)
    total = recipe.epochs if epochs is None else epochs
    if total < 1:
        raise TrainingError(f"Cannot train for {total} epochs; give 1 or more.")
    cases, held_out = split_cases(
        find_cases(data_root, recipe.folder), recipe.hold_out, block=recipe.block, seed=seed
    )
    source = make_source(recipe, cases, target)
    torch.manual_seed(seed)
    network = build_network(recipe.card).to(target)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = {k: v.detach().clone() for k, v in network.named_parameters()}
    optimiser = _optimiser(network, recipe)
    checkpoint = out / "checkpoint"
    facts = {"recipe": recipe.card.name, "seed": seed, "epochs": total, "cases": len(cases)}
    first = load_checkpoint(checkpoint, network, average, optimiser, facts) if resume else 0

    for epoch in range(first, total):
        loss = _epoch(recipe, source, network, average, optimiser, epoch, total, seed, target)
        save_checkpoint(checkpoint, network, average, optimiser, {**facts, "epoch": epoch + 1})
        done = epoch + 1
        report(Progress(done, total, f"epoch {done} of {total}, loss {loss:.3f}", loss))

    with torch.no_grad():
        for key, parameter in network.named_parameters():
            parameter.copy_(average[key])
    estimate_statistics(network, recipe, source, seed)
    command = f"python -m tools.train model {recipe.card.name} DATA OUT --seed {seed}"
    if epochs is not None:
        command += f" --epochs {epochs}"
    extents = measure_extents(recipe.card, labelled_scans(cases, recipe.labels), recipe.hint)
    _write(
        replace(recipe, card=replace(recipe.card, extents=extents)), network, held_out, out, command
    )
    write_steadiness(out, cases)
    for file in checkpoint.iterdir():
        file.unlink()
    checkpoint.rmdir()
    report(Progress(total, total, f"written to {out}"))
    return out


def make_source(recipe: Recipe, cases: list[LabelledCase], device: torch.device) -> Source:
    """The training images of a recipe, in memory."""
    kind = VolumeSource if recipe.volumes else PhotographSource
    return kind(cases, recipe.card, recipe.frame, recipe.values, recipe.labels, device)


def estimate_statistics(network: nn.Module, recipe: Recipe, source: Source, seed: int) -> None:
    """Take the normalisation layers' statistics anew, over the source images in their own frame.

    Training leaves averages over augmented views. The statistics that a shift is measured
    against, and that a blend mixes with, should be those of the source centre; a recipe may have
    a share of its images in changed appearance.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    kept = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean over all batches
    network.train()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for start in range(0, len(source), recipe.batch_size):
            indices = range(start, min(start + recipe.batch_size, len(source)))
            batch = source.batch(indices, None, generator, size=recipe.home_frame)
            images = batch.images
            if recipe.home_share:
                changed = recipe.appearance(images, batch.targets, generator)
                images = _mixed(images, changed, recipe.home_share, generator)
            network(images.to(memory_format=torch.channels_last))
    for layer, momentum in zip(layers, kept, strict=True):
        layer.momentum = momentum
    network.eval()


def _epoch(
    recipe: Recipe,
    source: Source,
    network: nn.Module,
    average: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    epoch: int,
    total: int,
    seed: int,
    device: torch.device,
) -> float:
    """One pass over the source; everything random follows from seed and epoch alone."""
    numbers = np.random.default_rng((seed, epoch))
    generator = torch.Generator().manual_seed(int(numbers.integers(2**62)))
    order = numbers.permutation(len(source))
    batches = max(1, len(order) // recipe.batch_size)
    network.train()
    losses = []
    calm = epoch >= (lively := total - round(recipe.calm * total))
    views = recipe.views.halved() if calm else recipe.views
    for k in range(batches):
        step = epoch * batches + k
        if calm:
            cycle = math.ceil((total - lively) / recipe.calm_cycles) * batches
            rate = _cosine((step - lively * batches) % cycle, cycle) / 2
        else:
            rate = _rate(step, batches, lively * batches)
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * rate
        indices = order[k * recipe.batch_size : (k + 1) * recipe.batch_size].tolist()
        batch = source.batch(indices, views, generator)
        images = recipe.appearance(batch.images, batch.targets, generator)
        if calm:
            images = _mixed(batch.images, images, 0.5, generator)
        images = images.to(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=_half_is_faster(device)):
            logits = network(images)
        loss = segmentation_loss(logits, batch.targets, recipe.card.activation)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"The loss is not finite in epoch {epoch + 1}, batch {k + 1}. "
                "Resume from the last epoch, or lower the recipe's learning rate."
            )
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        decay = min(recipe.averaging, (1 + step) / (10 + step))
        with torch.no_grad():
            for key, parameter in network.named_parameters():
                average[key].lerp_(parameter, 1 - decay)
        losses.append(float(loss.detach()))
    return float(np.mean(losses))


def _mixed(images: Tensor, changed: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Each image changed with probability `share`, as it is otherwise."""
    kept = torch.rand(len(images), generator=generator) < 1 - share
    return torch.where(kept.to(images.device)[:, None, None, None], images, changed)


def _rate(step: int, warm: int, total: int) -> float:
    """Linear rise over the first epoch, then a cosine down to 1 %."""
    if step < warm:
        return (step + 1) / warm
    return _cosine(step - warm, max(1, total - warm))


def _cosine(step: int, total: int) -> float:
    """From 1 down to 1 %."""
    return 0.01 + 0.99 * (1 + math.cos(math.pi * step / total)) / 2


def _optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; scales, shifts and biases do not decay."""
    parameters = list(network.parameters())
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
    )


def _half_is_faster(device: torch.device) -> bool:
    """bfloat16 pays on CUDA and on processors with matrix units for it (AMX)."""
    if device.type == "cpu":
        return bool(torch.cpu._is_amx_tile_supported())
    return device.type == "cuda"


def _write(
    recipe: Recipe, network: nn.Module, held_out: list[LabelledCase], out: Path, command: str
) -> None:
    """Weights in half precision and the card with their figures, full precision beside them."""
    card = replace(recipe.card, results=())
    write_model(out, card, network, half=False)
    reference = evaluate_model(out, held_out, recipe.labels)
    write_model(out, card, network, half=True)
    rows = evaluate_model(out, held_out, recipe.labels)
    results = tuple(
        {
            "command": command,
            "centre": recipe.folder.split("/")[-1] + ", held out",
            **row,
            "dice_mean_full_precision": before["dice_mean"],
        }
        for row, before in zip(rows, reference, strict=True)
    )
    write_model(out, replace(card, results=results), network, half=True)


def soft_dice(probabilities: Tensor, targets: Tensor, smooth: float = 1.0) -> Tensor:
    """Soft Dice per image and channel, ``(2·Σpt + s) / (Σp + Σt + s)`` (Milletari 2016, without
    the squares).

    Parameters
    ----------
    probabilities, targets : tensor of shape (B, C, H, W)
        In [0, 1]; targets may be soft at the borders.
    smooth : float
        ``s`` in pixels; an empty target that is predicted empty counts as 1.

    Returns
    -------
    tensor of shape (B, C)
    """
    overlap = (probabilities * targets).sum((2, 3))
    total = probabilities.sum((2, 3)) + targets.sum((2, 3))
    return (2 * overlap + smooth) / (total + smooth)


def segmentation_loss(logits: Tensor, targets: Tensor, activation: str) -> Tensor:
    """Cross-entropy plus one minus soft Dice.

    Parameters
    ----------
    logits : tensor of shape (B, C, H, W)
        What the network gives.
    targets : tensor of shape (B, C, H, W)
        In [0, 1]; for softmax they sum to one over the channels.
    activation : {"sigmoid", "softmax"}
        Independent structures, with Dice per image; or exclusive classes with the background
        first, with Dice over the batch.
    """
    logits = logits.float()
    if activation == "sigmoid":
        entropy = fn.binary_cross_entropy_with_logits(logits, targets)
        return entropy + 1 - soft_dice(torch.sigmoid(logits), targets).mean()
    entropy = fn.cross_entropy(logits, targets)
    # Many slices hold no ventricle: their overlap is taken over the batch, or the safe answer
    # would be to find none at all. The background would only dilute the tissues.
    probabilities = torch.softmax(logits, 1)
    overlap, total = (
        (probabilities * targets).sum((0, 2, 3)),
        (probabilities + targets).sum((0, 2, 3)),
    )
    return entropy + 1 - ((2 * overlap + 1) / (total + 1))[1:].mean()
