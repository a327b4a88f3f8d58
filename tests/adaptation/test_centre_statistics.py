"""Statistics of the whole stack against means and variances taken in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from napari_grata.adaptation import AdaptationRun, CentreStatistics, Settings
from napari_grata.scans import scan_from_array
from napari_grata.segmenters import Segmenter
from tools.generators.models import Small, small_card

RESERVE = 3.0


def test_after_n_images_the_statistics_are_shrunk_towards_the_source() -> None:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)).double().eval()
    network[1].running_mean.normal_()
    network[1].running_var.uniform_(0.5, 1.5)
    source = np.stack([network[1].running_mean.numpy(), network[1].running_var.numpy()])
    x = torch.rand(5, 2, 6, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = network[0](x).detach().numpy()

    method = CentreStatistics(network, reserve=RESERVE)
    for image in x[:2].split(1):
        method.step(image)
    method.step(x[2:])
    centre = np.stack([y.mean((0, 2, 3)), y.var((0, 2, 3))])  # images of one size weigh the same
    expected = 5 / (5 + RESERVE) * centre + RESERVE / (5 + RESERVE) * source
    np.testing.assert_allclose(method.snapshot().theta.numpy(), expected.ravel(), atol=1e-6)

    mean, var = expected[:, None, :, None, None]
    scale, shift = (
        one.detach().numpy()[:, None, None] for one in (network[1].weight, network[1].bias)
    )
    z = (y - mean) / np.sqrt(var + network[1].eps) * scale + shift
    found = method.predict(x).logits.numpy()
    np.testing.assert_allclose(found, z, atol=1e-5)
    assert np.array_equal(network[1].running_mean.numpy(), source[0])

    method.reset()
    np.testing.assert_allclose(method.theta().numpy(), source.ravel(), atol=1e-6)


def test_a_network_without_batch_normalisation_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="statistics of batch normalisation"):
        CentreStatistics(nn.Sequential(nn.Conv2d(1, 1, 1), nn.InstanceNorm2d(1, affine=True)))


def test_masks_come_once_all_slices_were_seen_and_do_not_depend_on_their_order() -> None:
    torch.manual_seed(0)
    segmenter = Segmenter(small_card(), Small(), "cpu")
    rng = np.random.default_rng(0)
    scan = scan_from_array(
        rng.random((4, 64, 64), np.float32), name="scan", spacing=(2.0, 1.0, 1.0)
    )
    settings = Settings(method="centre-statistics")
    thetas = []
    for slices in ([0, 1, 2, 3], [3, 1, 0, 2]):
        run = AdaptationRun(segmenter, scan, settings, slices=slices)
        records = list(run.records())
        assert [r.phase for r in records] == ["adapt"] * 4 + ["predict"] * 4
        assert not any(r.final for r in records[:4])
        thetas.append(run.past.theta(run.last_step))
    assert not np.array_equal(thetas[0], run.past.theta(0))
    # The first layer's input does not depend on the order at all; deeper ones see it a little.
    np.testing.assert_allclose(*thetas, rtol=0.05, atol=0.01)
