"""Slices with nothing on them teach nothing."""

from __future__ import annotations

import numpy as np
import torch

from napari_grata.adaptation import AdaptationRun, Settings
from napari_grata.scans import scan_from_array
from napari_grata.segmenters import Card, ResUNet, Segmenter, Structure


def test_a_blank_slice_keeps_its_source_mask_and_teaches_nothing():
    torch.manual_seed(0)
    card = Card(
        name="small",
        title="Small",
        structures=(Structure("tissue", "#56B4E9", 1),),
        arguments={"encoder": "compact"},
        channels=1,
        spacing=(1.0, 1.0),
        normalisation={"kind": "quantile", "low": 0.01, "high": 0.99},
        modality="T1",
        dimensions=3,
    )
    segmenter = Segmenter(card, ResUNet("compact", outputs=1, channels=1), "cpu")
    volume = np.zeros((4, 64, 64), np.float32)
    volume[[1, 3], 10:50, 12:40] = np.random.default_rng(0).random((2, 40, 28)) + 1
    scan = scan_from_array(volume, name="volume", spacing=(1.0, 1.0, 1.0))
    run = AdaptationRun(segmenter, scan, Settings(method="grata", learning_rate=1e-2))
    records = list(run.records())
    assert [record.cosine is None for record in records] == [True, False, True, False]
    theta = [run.past.theta(step) for step in range(5)]
    assert np.array_equal(theta[0], theta[1])
    assert not np.array_equal(theta[1], theta[2])
    assert np.array_equal(theta[2], theta[3])
    assert not np.array_equal(theta[3], theta[4])
    assert not any(record.undone for record in records)
    assert sorted(run.adapted_masks) == [0, 1, 2, 3]
    # Statistics of a single value are none: whatever the method, the source model answers.
    for index in (0, 2):
        assert np.array_equal(run.adapted_masks[index], run.source_masks[index])
        looked_back = run.predict(index, step=2).label_map
        assert np.array_equal(looked_back, run.source_masks[index])
    run.close()
