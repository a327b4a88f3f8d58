"""GraTa's default arguments reproduce the published step, in float64, step by step."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_grata.adaptation import GraTa
from napari_grata.segmenters.resunet import HEADS, ResUNet

OBJECTIVE = {"ent": "entropy", "consis": "consistency", "recon": "reconstruction"}
# Reconstruction amplifies rounding: the step through the untrained head is huge.
TOLERANCE = {"entropy": 1e-6, "reconstruction": 1e-3}
FIGURES = {
    "auxiliary_loss": "aux_loss",
    "pseudo_loss": "pse_loss",
    "cosine": "cosine",
    "learning_rate": "lr",
}


@pytest.fixture(scope="module")
def reference(data_root: Path) -> Path:
    folder = data_root.parent / "reference"
    if not folder.is_dir():
        pytest.skip(f"the published figures are not on this machine: no folder {folder}")
    return folder


@pytest.fixture(scope="module")
def fill(reference: Path):
    spec = importlib.util.spec_from_file_location("reference_weights", reference / "weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.fill_state_dict


@pytest.mark.parametrize("path", ["arranged by hand", "as written", "views as one batch"])
@pytest.mark.parametrize("name", ["grata_b1_64", "grata_b2_64", "grata_recon_consis_64"])
def test_every_step_matches_the_published_figures(
    reference: Path, fill, name: str, path: str
) -> None:
    figures = np.load(reference / f"{name}.npz")
    meta = json.loads(str(figures["meta"]))
    auxiliary = OBJECTIVE[meta["auxiliary"]]
    network = ResUNet("resnet34", outputs=2, heads=HEADS)
    network.load_state_dict(fill(network.state_dict(), meta["seed"]))
    network.double()
    views = iter(torch.from_numpy(figures["strong_views"]).double())
    method = GraTa(
        network,
        learning_rate=meta["initial_lr"],
        auxiliary=auxiliary,
        pseudo=OBJECTIVE[meta["pseudo"]],
        strong_view=lambda images: next(views),
        batch_views=path == "views as one batch",
    )
    assert method.network.runner is not None
    if path == "as written":
        method.network.runner = None
    tolerance = TOLERANCE[auxiliary]

    for step, images in enumerate(torch.from_numpy(figures["images"]).double()):
        record = method.step(images)
        assert not record.undone
        for ours, theirs in FIGURES.items():
            value = getattr(record, ours)
            assert value == pytest.approx(figures[theirs][step], rel=tolerance), (ours, step)
        logits = figures["logits"][step]
        np.testing.assert_allclose(record.logits.numpy(), logits, rtol=tolerance, atol=1e-6)

    state = dict(method.network.named_parameters())
    for key in figures.files:
        if key.startswith("param:"):
            ours = state[key.removeprefix("param:")].detach().numpy()
            np.testing.assert_allclose(ours, figures[key], rtol=tolerance, atol=1e-9)
