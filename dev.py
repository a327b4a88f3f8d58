#!/usr/bin/env python3
"""Set up and run napari-grata from a clone, with nothing but Python installed.

``python3 dev.py demo`` opens the plugin on the sample scans (without a screen: does the same
headless and writes masks, plots and a picture to ``out/demo``); ``python3 dev.py test`` passes
the tests. Both make their own virtual environment in ``.venv`` the first time. ``walk --napari
0.7.*`` takes the walk through the dock on another napari, and ``beside`` installs the wheel beside
a user's napari.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv"
# What Qt, OpenGL in software and a virtual screen need on Debian and Ubuntu.
SYSTEM_PACKAGES = [
    "xvfb",
    "xauth",
    "libgl1",
    "libegl1",
    "libglib2.0-0",
    "libxkbcommon-x11-0",
    "libxcb-icccm4",
    "libxcb-image0",
    "libxcb-keysyms1",
    "libxcb-render-util0",
    "libxcb-xinerama0",
    "libxcb-shape0",
    "libxcb-cursor0",
    "libdbus-1-3",
    "libfontconfig1",
]
WINDOWS = "tests/widgets"
# About half of what opens no window.
ROOMS_APART = ("tests/adaptation", "tests/scans", "tests/segmenters")
NNUNET = "dynamic-network-architectures"
WALK = ("tests/widgets/test_dock.py", "tests/widgets/test_layer_commands.py")
# Not the oldest that we name: 2.6 wants another sympy than its own index of CPU builds has.
OLDER_TORCH = "torch==2.8.0"
OTHER_BINDINGS = ("pyqt5",)
OLDEST_NAPARI = "0.6.*"  # of those that setup.cfg names
# napari's own layouts leave PySide6 handles on items that are gone, and a widget that comes to lie
# at such an address ends the process (6.8.3, 6.10.3: most runs that open several viewers, and one
# in some seventy of those that open one).
ONE_A_PROCESS = "pyside6"
# Of the walk on them.
SHORT_WALK = ("two_clicks", "photograph", "cancel", "follows", "deleting", "drawn", "region")
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"


def python_of(venv: Path) -> Path:
    """Return the interpreter of a virtual environment."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


PYTHON = python_of(VENV)


def run(*command: str | Path, check: bool = True, env: dict[str, str] | None = None) -> int:
    """Show a command, run it, and stop with its exit code if it fails."""
    print("$", *command, flush=True)
    code = subprocess.run([str(part) for part in command], cwd=HERE, env=env).returncode
    if code and check:
        sys.exit(code)
    return code


def missing_system_packages() -> list[str]:
    """Return the Debian packages that are not installed; empty on every other system."""
    if not shutil.which("dpkg-query"):
        return []
    listed = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *SYSTEM_PACKAGES],
        capture_output=True,
        text=True,
    ).stdout
    there = {line.split()[0] for line in listed.splitlines() if line.endswith(" installed")}
    # Newer releases renamed it for 64-bit time; either will do.
    if shutil.which("ldconfig") and "libglib-2.0.so.0" in _shared_libraries():
        there.add("libglib2.0-0")
    return [name for name in SYSTEM_PACKAGES if name not in there]


def _shared_libraries() -> str:
    return subprocess.run(["ldconfig", "-p"], capture_output=True, text=True).stdout


def install_system_packages() -> None:
    """Install what is missing where we may, and name it where we may not."""
    missing = missing_system_packages()
    if not missing:
        return
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        run("apt-get", "update", "-qq", env=env)
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing, env=env)
    else:
        print("These system packages are missing; please install them first:", file=sys.stderr)
        print("    sudo apt-get install", *missing, file=sys.stderr)
        sys.exit(1)


def install_torch(python: Path = PYTHON, version: str = "") -> None:
    """Install torch: the CPU build on a Linux machine without an NVIDIA GPU (200 MB, not 3 GB)."""
    version = version or next(
        line.strip()
        for line in (HERE / "constraints.txt").read_text().splitlines()
        if line.startswith("torch==")
    )
    if sys.platform == "linux" and not shutil.which("nvidia-smi"):
        options = ("--index-url", CPU_WHEELS, "--retries", "0", "--timeout", "15")
        if run(python, "-m", "pip", "install", "-q", *options, version, check=False) == 0:
            return
        print("The CPU build could not be had from its own index; taking the usual one.")
    run(python, "-m", "pip", "install", "-q", version)


def set_up(extras: str) -> None:
    """Make or refresh the virtual environment; nothing is done when nothing has changed."""
    wanted = hashlib.sha256(
        (HERE / "setup.cfg").read_bytes() + (HERE / "constraints.txt").read_bytes()
    ).hexdigest()
    stamp = VENV / f"ready-{extras.replace(',', '-')}"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    if not PYTHON.exists():
        run(sys.executable, "-m", "venv", VENV)
    install_torch()
    run(PYTHON, "-m", "pip", "install", "-q", "-c", "constraints.txt", "-e", f".[{extras}]")
    stamp.write_text(wanted)


def has_screen() -> bool:
    """Whether a window can be opened here."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def demo(arguments: list[str]) -> None:
    """Open the plugin on sample scans, or do the same without a screen."""
    install_system_packages()
    set_up("pyqt6")
    # The tests bring PyQt5 into the same environment; qtpy alone would prefer it.
    env = {"QT_API": "pyqt6", **os.environ}
    run(PYTHON, "-m", "napari_grata", "demo", *arguments, env=env)


def test(arguments: list[str]) -> None:
    """Check style, types and the manifest, then run the tests: all on PyQt6, a walk on the others.

    What never opens a window gives the same on every binding, and most of what does; the walk is
    what a user does on one scan. Two parts at a time, the long ones first: each keeps one
    processor busy at most.
    """
    install_system_packages()
    set_up(",".join(("test", "pyqt6", *OTHER_BINDINGS, ONE_A_PROCESS)))
    # Without what it names for networks that nnU-Net has none of, torchvision among it.
    run(PYTHON, "-m", "pip", "install", "-q", "-c", "constraints.txt", "--no-deps", NNUNET)
    run(PYTHON, "-m", "ruff", "check", ".")
    run(PYTHON, "-m", "ruff", "format", "--check", ".")
    run(PYTHON, "-m", "npe2", "validate", "napari-grata")
    short = short_walk(WALK[0])
    parts = [
        ("pyqt6", (WINDOWS,)),
        ("pyqt6", ("tests", *(f"--ignore={path}" for path in (WINDOWS, *ROOMS_APART)))),
        ("pyqt6", ROOMS_APART),
        *((binding, (*short, WALK[1])) for binding in OTHER_BINDINGS),
        *((ONE_A_PROCESS, (test,)) for test in short),
    ]
    jobs: list[Callable[[], int]] = [
        partial(tested, binding, 90 + 50 * number, *paths, *arguments)
        for number, (binding, paths) in enumerate(parts)
    ]
    # Before the short ones, so that none runs alone at the end.
    jobs[3:3] = [
        partial(walk, arguments, OLDEST_NAPARI, short),
        partial(shown, [str(PYTHON), "-m", "mypy"]),
    ]
    with ThreadPoolExecutor(2) as pool:
        codes = [pool.submit(job) for job in jobs]
    # A process that a signal has ended has a negative one.
    sys.exit(max((part.result() for part in codes), key=abs))


def short_walk(path: str) -> list[str]:
    """Return the tests of a file that are taken on the other bindings."""
    names = re.findall(r"^def (test_\w+)", (HERE / path).read_text(encoding="utf-8"), re.M)
    return [f"{path}::{name}" for name in names if any(word in name for word in SHORT_WALK)]


def tested(binding: str, display: int, *arguments: str) -> int:
    """Run pytest on a binding and return its exit code.

    A process that a signal ends has shown nothing of its one test: there it is run again, twice
    at most.
    """
    command = pytest_on(binding, display, *arguments)
    for _ in range(3 if binding == ONE_A_PROCESS else 1):
        code = shown(command, pytest_environment(binding))
        if 0 <= code <= 5:  # pytest's own
            break
    return code


def shown(command: list[str], env: dict[str, str] | None = None) -> int:
    """Run a command beside others and show what it said once it has ended."""
    print("$", *command, flush=True)
    done = subprocess.run(
        command, cwd=HERE, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    code = done.returncode
    print(f"$ {' '.join(command)}\n{done.stdout}(exit code {code})\n", end="", flush=True)
    return code


def walk(arguments: Sequence[str], napari: str, tests: Sequence[str] = WALK) -> int:
    """Take the walk through the dock on another napari, in an environment of its own.

    With PyQt5, which the oldest has by default. Warnings are no errors there: an old napari
    beside new libraries is full of its own.
    """
    python = python_of(HERE / f".venv-napari-{napari.replace('*', 'x')}")
    if not python.exists():
        run(sys.executable, "-m", "venv", python.parents[1])
        install_torch(python)
    needs = ("pytest", "pytest-qt", "pytest-timeout", f"napari=={napari}", "-e", ".[pyqt5]")
    run(python, "-m", "pip", "install", "-q", *needs)
    command = pytest_on("pyqt5", 840, *tests, "-W", "default", *arguments, python=python)
    return shown(command, pytest_environment("pyqt5"))


def beside(napari: str = "") -> None:
    """Install the wheel beside a user's napari as its plugin manager does, and look what changed.

    The plugin manager asks pip for the plugin under the one constraint that napari stays. The
    user has an older torch here: it must be found, not replaced.
    """
    with tempfile.TemporaryDirectory() as place:
        python, wheels = python_of(Path(place) / "venv"), Path(place) / "wheels"
        pip = (python, "-m", "pip")
        run(sys.executable, "-m", "venv", python.parents[1])
        run(*pip, "install", "-q", "napari[pyqt6]" + (f"=={napari}" if napari else ""))
        install_torch(python, OLDER_TORCH)
        before = installed(python)
        run(*pip, "wheel", "-q", "--no-deps", "-w", wheels, ".")
        constraints = Path(place) / "constraints.txt"
        constraints.write_text(f"napari=={before['napari']}")
        run(*pip, "install", "-q", "-c", constraints, *wheels.glob("*.whl"))
        after = installed(python)
        changed = [f"{k} {v} → {after.get(k)}" for k, v in before.items() if after.get(k) != v]
        added = [f"{name} {after[name]}" for name in sorted(after.keys() - before.keys())]
        print(f"Beside napari {before['napari']} and torch {before['torch']}:")
        print(f"{len(before)} packages before, changed: {', '.join(changed) or 'none'}")
        print(f"added: {', '.join(added)}")
        run(python, "-I", "-m", "napari_grata", "doctor")
    sys.exit(1 if changed else 0)


def installed(python: Path) -> dict[str, str]:
    """Return what is installed in an environment, and in which version."""
    listed = subprocess.run(
        [str(python), "-m", "pip", "list", "--format=freeze"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return dict(line.split("==") for line in listed.splitlines() if "==" in line)


def pytest_on(binding: str, display: int, *arguments: str, python: Path = PYTHON) -> list[str]:
    """Return the command that runs pytest, on a virtual screen where there is no other."""
    print(f"== tests on {binding} ==", flush=True)
    screen: list[str] = []
    if not has_screen():
        # Numbers far apart: two that look for a free one at the same moment find the same.
        screen = ["xvfb-run", "-a", "-n", str(display), "-s", "-screen 0 1600x1000x24"]
    return [*screen, str(python), "-m", "pytest", *arguments]


def pytest_environment(binding: str) -> dict[str, str]:
    """Return the environment for tests on a Qt binding.

    The tests' small tensors gain nothing from threads, and on a busy machine threads that wait
    for each other take many times as long.
    """
    return dict(os.environ, QT_API=binding, PYTEST_QT_API=binding, OMP_NUM_THREADS="1")


def main() -> None:
    """Run the verb named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("verb", choices=["demo", "test", "walk", "beside"])
    parser.add_argument("--napari", default="", help="walk, beside: a version, such as 0.6.*")
    options, rest = parser.parse_known_args()
    # A fresh machine may have an older one than setup.cfg asks for.
    if sys.version_info < (3, 10):  # noqa: UP036
        sys.exit(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")
    if options.verb == "walk":
        install_system_packages()
        sys.exit(walk(rest, options.napari or OLDEST_NAPARI))
    elif options.verb == "beside":
        beside(options.napari)
    else:
        {"demo": demo, "test": test}[options.verb](rest)


if __name__ == "__main__":
    main()
