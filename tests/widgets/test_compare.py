"""How masks are shown: each way on the slice in view, what it leaves behind, and the measures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Labels, Shapes

from napari_grata.segmenters.card import structure_mask
from napari_grata.widgets.overlays import WAYS

Start = Callable[..., Any]


def roles(user: Any) -> list[str]:
    """Return the roles of what lies over the scan for a comparison."""
    found = [layer.metadata.get("napari_grata", {}).get("role") for layer in user.viewer.layers]
    return [role for role in found if role in ("view", "uncertainty")]


@pytest.fixture
def adapted(start: Start, volume: Path) -> Callable[..., Any]:
    """Return a function that opens the dock on an adapted volume."""

    def make() -> Any:
        user = start(volume)
        user.adapt()
        return user

    return make


def test_before_after_and_difference_by_key(adapted: Callable[..., Any]) -> None:
    user = adapted()
    session = user.session
    user.do("toggle_masks")
    assert (session.source.visible, session.adapted.visible) == (True, False)
    user.do("toggle_masks")
    assert (session.source.visible, session.adapted.visible) == (False, True)
    seen = []
    for _ in range(4):
        user.do("difference")
        seen.append(session.difference_of)
    assert seen == ["", "disc", "cup", None]
    assert user.context.mode == "adapted"


@pytest.mark.parametrize("name", list(WAYS))
def test_a_way_shows_the_slice_in_view_and_leaves_nothing_behind(
    adapted: Callable[..., Any], name: str
) -> None:
    user = adapted()
    layers = [layer.name for layer in user.viewer.layers]
    here = user.context.in_view()
    user.do(name)
    assert user.context.mode == name
    assert roles(user)
    assert user.context.in_view() == here
    user.context.go_to(4)
    user.settle()
    assert user.context.in_view() == 4
    assert user.context.layer is user.session.scan_layer()
    user.do(name)
    assert user.context.mode == "adapted"
    assert not roles(user)
    assert [layer.name for layer in user.viewer.layers] == layers


def test_contours_follow_the_masks_and_keep_their_width_on_the_screen(
    adapted: Callable[..., Any],
) -> None:
    user = adapted()
    user.context.go_to(2)
    user.do("contours")
    thick = [layer for layer in user.viewer.layers if isinstance(layer, Shapes)][-1]
    card, mask = user.session.card, user.session.adapted.stack[2]
    disc = structure_mask(card, mask, card.structures[0])
    rows, columns = np.nonzero(disc)
    points = np.concatenate([np.asarray(line)[:, -2:] for line in thick.data])
    assert abs(points[:, 0].min() - (rows.min() - 0.5)) < 1
    assert abs(points[:, 1].max() - (columns.max() + 0.5)) < 1
    wide = float(thick.edge_width[0])
    camera = getattr(user.viewer, "scene", user.viewer).camera
    camera.zoom *= 4
    user.wait(lambda: abs(float(thick.edge_width[0]) - wide / 4) < 1e-3 * wide, 5)


def test_left_of_the_curtain_is_the_source_right_of_it_the_adapted_mask(
    adapted: Callable[..., Any],
) -> None:
    user = adapted()
    user.paint(2, 3, 40, value=2)
    user.do("curtain")
    curtain = next(x for x in user.viewer.layers if x.name.endswith("curtain"))
    source = user.session.source.stack[2]
    adapted_mask = np.asarray(user.session.adapted.layer.data[2])
    half = round(source.shape[1] / 2)
    np.testing.assert_array_equal(curtain.data[0, :, :half], source[:, :half])
    np.testing.assert_array_equal(curtain.data[0, :, half:], adapted_mask[:, half:])
    for _ in range(5):
        user.do("curtain_left")
    moved = round(source.shape[1] * 0.4)
    np.testing.assert_array_equal(curtain.data[0, :, moved:], adapted_mask[:, moved:])


def test_planes_are_for_volumes_alone(start: Start, photograph: Path) -> None:
    user = start(photograph)
    user.adapt()
    user.do("planes")
    assert user.context.mode != "planes"
    assert user.dock.hint.said() == "Only a volume has three planes."
    user.do("contours")
    assert roles(user)


def test_where_the_model_is_unsure_is_measured_for_the_slice_in_view(
    adapted: Callable[..., Any],
) -> None:
    user = adapted()
    user.do("uncertainty")
    user.wait(lambda: roles(user) == ["uncertainty"])
    layer = user.viewer.layers[-1]
    assert layer.data.shape[-2:] == user.context.scan.mask_shape[-2:]
    assert 0 < float(np.max(layer.data)) <= 0.5
    assert user.context.layer is user.session.scan_layer()
    user.do("uncertainty")
    user.do("uncertainty")
    user.settle()
    assert not roles(user)


def test_measures_of_the_slice_in_view_against_the_masks_and_a_truth(
    adapted: Callable[..., Any], tmp_path: Path
) -> None:
    user = adapted()
    user.context.go_to(2)
    user.dock.window().show()
    user.dock.timeline.show_tab("Measures")
    section = user.dock.measures
    user.wait(lambda: section.isVisible() and section._rows)
    area = next(r for r in section._rows if (r.structure, r.name) == ("disc", "Area"))
    card, mask = user.session.card, user.session.adapted.stack[2]
    pixels = int(structure_mask(card, mask, card.structures[0]).sum())
    assert area.values["after"] == pytest.approx(pixels * 1.5, rel=1e-6)
    truth = Labels(np.array(user.session.source.stack), name="truth")
    user.viewer.add_layer(truth)
    section.take_layer(truth)
    user.wait(lambda: any("truth" in row.values for row in section._rows))
    out = tmp_path / "m.csv"
    section.save(out)
    user.wait(out.exists)
    assert out.read_text(encoding="utf-8-sig").startswith("case,slice,structure,quantity,mask")
