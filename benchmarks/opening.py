"""How long it takes to open napari with the dock ready, beside bare napari; import of the package.

Fresh processes, bare and with the dock in turns, so that a busy machine slows both. Seconds of
computing count the process's own work, whatever else the machine does. Ready means:
the window is painted and the event loop has nothing left to do; torch is loaded later, in the
background.

    xvfb-run -a -s "-screen 0 1366x768x24" python benchmarks/opening.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence

IMPORT = """
import time
begin, work = time.perf_counter(), time.process_time()
import napari_grata
print(time.perf_counter() - begin, time.process_time() - work)
"""
WINDOW = """
import sys, time
begin, work = time.perf_counter(), time.process_time()
import napari
from qtpy.QtWidgets import QApplication
viewer = napari.Viewer()
if {dock}:
    viewer.window.add_plugin_dock_widget("napari-grata")
QApplication.processEvents()
QApplication.processEvents()
print(time.perf_counter() - begin, time.process_time() - work, flush=True)
import os
os._exit(0)  # closing the window is not measured
"""


def seconds(code: str) -> tuple[float, float]:
    """Return the seconds that passed, and those of computing, as a fresh process prints them."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    try:
        passed, computing = done.stdout.split()[-2:]
        return float(passed), float(computing)
    except (IndexError, ValueError):
        raise SystemExit(f"The process failed:\n{done.stderr[-2000:]}") from None


def spread(values: list[tuple[float, float]]) -> str:
    """Return median and range of the seconds that passed, and the median of those of computing."""
    passed, computing = zip(*values, strict=True)
    middle = statistics.median(passed)
    return (
        f"{middle:.2f} | {min(passed):.2f} – {max(passed):.2f} | {statistics.median(computing):.2f}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Open windows in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args(argv).repeats
    with tempfile.TemporaryDirectory() as home:
        for name in ("NAPARI_GRATA_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
            os.environ[name] = home
        for dock in (False, True):  # once each for the caches of files and byte code
            seconds(WINDOW.format(dock=dock))
        bare, ready, imports = [], [], []
        for _ in range(repeats):
            bare.append(seconds(WINDOW.format(dock=False)))
            ready.append(seconds(WINDOW.format(dock=True)))
            imports.append(seconds(IMPORT))
    over = [(one[0] - other[0], one[1] - other[1]) for one, other in zip(ready, bare, strict=True)]
    print("| what | median s | range s | median s of computing |")
    print("| --- | --- | --- | --- |")
    print(f"| bare napari | {spread(bare)} |")
    print(f"| napari with the dock | {spread(ready)} |")
    print(f"| the dock over bare napari | {spread(over)} |")
    print(f"| import napari_grata | {spread(imports)} |")


if __name__ == "__main__":
    main()
