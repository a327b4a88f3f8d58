"""What the dock's tests share: a small model, a small scan, a dock in a real viewer."""

from __future__ import annotations

import gc
import importlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pytest
from npe2 import PluginManifest
from qtpy import API_NAME
from qtpy.QtCore import QEvent, QTimer
from qtpy.QtWidgets import QApplication


@pytest.fixture(scope="session", autouse=True)
def _what_stays_is_looked_at_once() -> Iterator[None]:
    """Have the imported libraries and the installed plugins gone through once, not in every test.

    napari collects garbage whenever a layer is taken out, each time through all of torch, and
    reads the manifests of all plugins anew for each viewer.
    """
    for name in ("torch", "napari._qt.qt_main_window", "napari_grata.widgets.dock"):
        importlib.import_module(name)
    from napari_grata.widgets import model_section

    installed = list(PluginManifest.discover())
    gc.collect()
    gc.freeze()
    with (
        patch.object(PluginManifest, "discover", lambda paths=(): iter(installed)),
        # What a dock sets aside until its end would not be found here, and the libraries would
        # be given back with it.
        patch.object(model_section, "freeze"),
        patch.object(model_section, "unfreeze"),
    ):
        yield


@pytest.fixture(autouse=True)
def _no_widget_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """See that no widget outlives its test.

    It would not only make all that follow slower: napari's fixture holds the windows that it finds
    at its start, so that those which still wait for their end would stay until the last test.
    """
    before = widgets()
    yield
    # With PySide6 it is one test a process, and the end of a window bears nothing more.
    if API_NAME == "PySide6" or QApplication.instance() is None:
        return
    request.node.funcargs.clear()  # what fixtures have returned
    called = getattr(request.node, "rep_call", None)
    passed = called is not None and called.passed
    for attempt in range(100 if passed else 3):  # what failed is held by its traceback
        # Only what Qt has destroyed is garbage for Python, some of it, and the other way round.
        QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        QApplication.processEvents()
        left = widgets() - before
        if not left:
            break
        if attempt > 2:
            time.sleep(0.1)  # a thread that ends holds them still
        gc.collect()
    if attempt:
        gc.freeze()  # napari keeps something of each viewer for good
    assert not (passed and left), f"these widgets outlive the test: {dict(left)}"


def widgets() -> Counter[str]:
    """Return which widgets there are."""
    if QApplication.instance() is None:
        return Counter()
    return Counter(type(widget).__qualname__ for widget in QApplication.allWidgets())


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model for T1 volumes and one for photographs."""
    import torch

    from napari_grata.segmenters import (
        Card,
        Structure,
        build_network,
        register_network,
        write_model,
    )

    def tiny(outputs: int, channels: int) -> torch.nn.Module:
        layers: list[torch.nn.Module] = []
        for inputs in (channels, 8):
            layers += [
                torch.nn.Conv2d(inputs, 8, 5, padding=4, dilation=2),
                torch.nn.BatchNorm2d(8),
                torch.nn.ReLU(),
            ]
        return torch.nn.Sequential(*layers, torch.nn.Conv2d(8, outputs, 1))

    register_network("test-tiny", tiny)
    root = tmp_path_factory.mktemp("models")
    disc = (Structure("disc", "#56B4E9", 1), Structure("cup", "#E69F00", 2, "disc"))
    for name, title, modality, dimensions, channels in (
        ("tiny-brain", "Tiny brain", "T1", 3, 1),
        ("tiny-eye", "Tiny eye", "fundus", 2, 3),
    ):
        card = Card(
            name=name,
            title=title,
            structures=disc,
            architecture="test-tiny",
            channels=channels,
            dimensions=dimensions,
            modality=modality,
            size=(64, 64),
            weights_sha256="0" * 64,
        )
        torch.manual_seed(3)
        network = build_network(card)
        _teach(network, channels)
        write_model(root / name, card, network)
    return root


def _teach(network: Any, channels: int) -> None:
    """Teach a network, in a second, to find a bright box (disc) and its middle (cup)."""
    import torch

    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    network.train()
    for _ in range(60):
        image = 0.25 + 0.06 * torch.randn(4, channels, 64, 64)
        truth = torch.zeros(4, 2, 64, 64)
        for k in range(4):
            row, column = torch.randint(6, 24, (2,)).tolist()
            image[k, :, row : row + 30, column : column + 30] += 0.45
            truth[k, 0, row : row + 30, column : column + 30] = 1
            truth[k, 1, row + 10 : row + 20, column + 10 : column + 20] = 1
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(image), truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """An oblong T1 volume of six slices, in a file of another orientation than the display."""
    rng = np.random.default_rng(0)
    data = rng.normal(100, 20, (40, 48, 6)).astype(np.float32)
    data[12:28, 14:34] += 150
    affine = np.diag([-1.0, 1.5, 4.0, 1.0])
    path = tmp_path / "case_017.nii.gz"
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    """A colour photograph that the small eye model knows."""
    from PIL import Image

    rng = np.random.default_rng(1)
    pixels = rng.normal(64, 12, (64, 64, 3))
    pixels[18:46, 20:48] += 115
    path = tmp_path / "eye_004.png"
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    return path


class User:
    """Someone before the screen: presses buttons and keys, waits, and reads.

    Attributes
    ----------
    viewer : Viewer
    dock : GrataDock
    context : Context
    """

    def __init__(self, viewer: Any, dock: Any, qtbot: Any) -> None:
        self.viewer, self.dock, self.qtbot = viewer, dock, qtbot
        self.context = dock.context

    @property
    def session(self) -> Any:
        return self.context.session

    def wait(self, condition: Callable[[], object], seconds: int = 60) -> None:
        self.qtbot.waitUntil(lambda: bool(condition()), timeout=1000 * seconds)

    def settle(self) -> None:
        """Let everything that is put off for a moment happen, however busy the machine is."""
        self.qtbot.wait(20)
        soon = [
            t for t in self.dock.findChildren(QTimer) if t.isSingleShot() and t.interval() < 300
        ]
        self.wait(lambda: not any(timer.isActive() for timer in soon), 20)

    def open(self, path: Any) -> None:
        self.dock.scan.open_scan(str(path))
        self.settle()

    def press(self, button: Any) -> None:
        assert button.isEnabled(), (button.text(), button.toolTip())
        button.click()
        self.settle()

    def do(self, action: str) -> None:
        """Do what a key does."""
        self.context.actions.perform(action)
        self.settle()

    def finish(self) -> None:
        """Wait until nothing runs any more."""
        self.wait(lambda: not self.context.runner.busy)
        self.settle()

    def adapt(self) -> None:
        self.press(self.dock.adapt.adapt_button)
        self.finish()
        assert not self.context.problem, self.context.problem

    def paint(self, index: int, row: int, column: int, value: int = 1) -> None:
        """Make a stroke of the brush on the adapted mask of a slice."""
        self.context.go_to(index)
        layer = self.session.adapted.layer
        layer.brush_size = 5
        place = (*self.context.scan.slice_position(index), row, column)
        layer.paint(place, value)
        self.settle()

    def decisions_are_known(self) -> None:
        self.wait(lambda: self.context.decision_list is not None)
        self.settle()

    def decision(self) -> str:
        """Return what the bar says."""
        self.settle()
        return str(self.dock.decide.sentence.said())


@pytest.fixture
def start(
    make_napari_viewer: Callable[..., Any],
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    qtbot: Any,
) -> Callable[..., User]:
    """Return a function that opens the dock in a fresh viewer, with only the small models.

    A function, since what a fixture returns outlives the viewer that napari checks for leaks.
    """
    from napari_grata.adaptation.settings import Settings
    from napari_grata.segmenters import registry

    monkeypatch.setattr(registry, "bundled_models_dir", lambda: model_folder)

    def make(scan: Any = None, **changes: Any) -> User:
        from napari_grata.widgets.dock import GrataDock

        viewer = make_napari_viewer()
        dock = GrataDock(viewer)
        viewer.window.add_dock_widget(dock, name="Adapt to a new centre")
        user = User(viewer, dock, qtbot)
        user.wait(lambda: dock.context.devices is not None)
        quick = Settings(method="grata", learning_rate=1e-3).but(**changes)
        dock.context.choose_settings("as-published", quick)
        if scan is not None:
            user.open(scan)
        return user

    return make


class Stage:
    """A context over a scan without a window, whose results a test puts in by hand.

    For what no test can wait for, such as ten thousand steps, and what needs no model.

    Attributes
    ----------
    context : Context
    viewer : ViewerModel
    session : Session
    """

    def __init__(self, qtbot: Any, shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
        from napari.components import ViewerModel
        from qtpy.QtWidgets import QWidget

        from napari_grata.widgets.context import Context

        widget = QWidget()
        qtbot.addWidget(widget)
        self.viewer = ViewerModel()
        self.context = Context(self.viewer, widget)  # type: ignore[arg-type]
        self.open(shape, spacing)

    def open(self, shape: tuple[int, ...], spacing: tuple[float, ...] = ()) -> None:
        """Open another scan of random values; with spacing it is a volume in mm."""
        from napari_grata.segmenters import Card, Structure
        from napari_grata.segmenters.registry import ModelEntry

        data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        units = ("mm",) * len(shape) if spacing else None
        layer = self.viewer.add_image(data, name="scan", scale=spacing or None, units=units)
        self.context.choose_layer(layer)
        disc = (Structure("disc", "#56B4E9", 1), Structure("cup", "#E69F00", 2, "disc"))
        card = Card(
            name="hand",
            title="By hand",
            structures=disc,
            architecture="compact-unet",
            channels=1,
            dimensions=len(shape),
            modality="T1",
            size=(64, 64),
            weights_sha256="0" * 64,
        )
        entry = ModelEntry("hand", "By hand", Path(), "user", card)
        context = self.context
        context.entry = entry
        assert context.scan is not None
        self.session = context.sessions.get(layer, context.scan, entry, filled=True)
        self.session.begin_adapting(None)
        context.take_results()

    def record(self, step: int, slice_index: int | None = None, **changes: Any) -> Any:
        """Return a record of a step, on one slice after the other."""
        from napari_grata.adaptation.records import Record

        scan = self.context.scan
        assert scan is not None
        index = (step - 1) % scan.n_slices if slice_index is None else slice_index
        mask = np.zeros(scan.slice_shape(index), dtype=np.uint8)
        values: dict[str, Any] = {
            "phase": "adapt",
            "step": step,
            "done": step,
            "total": 100,
            "slice_index": index,
            "case": 0,
            "pass_index": 0,
            "source_mask": mask,
            "adapted_mask": mask,
            "cosine": float(np.sin(step)),
            "learning_rate": 1e-4,
            "auxiliary_loss": 0.5,
            "pseudo_loss": 0.02,
            "source_area": {"disc": 100, "cup": 50},
            "adapted_area": {"disc": 90, "cup": 45},
            "agreement": {"disc": 0.9, "cup": 0.8},
        }
        return Record(**{**values, **changes})

    def take(self, *records: Any) -> None:
        """Let records come in, as from a run on the session in view."""
        for record in records:
            self.session.put_record(record)
        runner = self.context.runner
        runner.session = self.session
        self.session.masks_changed.emit({record.slice_index for record in records})
        runner.records.emit(list(records))
        runner.session = None


@pytest.fixture
def stage(qtbot: Any) -> Stage:
    """A stack of 53 slices with a session of a model with two structures, not yet adapted."""
    return Stage(qtbot, (53, 12, 16), (1.5, 0.1, 0.1))
