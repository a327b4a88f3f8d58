"""Nothing leaves the machine: no verb and no click opens a connection.

Each program runs with an audit hook that forbids Python to open one, and, where there is strace,
under that too: it sees what libraries written in C ask of the system, and child processes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

# What stays within the machine is no network: the screen's sockets and those between threads. Nor
# is a socket that was made and reaches nothing: urllib3, which nibabel loads where pydicom is
# there, binds one to the loopback to find out whether there is IPv6.
HOOK = """
    import os, socket, sys

    def forbid(event, arguments):
        module = event.partition(".")[0]
        if module not in ("socket", "urllib", "http", "ftplib", "smtplib", "poplib", "imaplib"):
            return
        if event in ("socket.gethostname", "socket.__new__"):
            return
        first = arguments[0] if arguments else None
        if getattr(first, "family", None) == getattr(socket, "AF_UNIX", "none"):
            return
        if event == "socket.bind" and arguments[1][:2] == ("::1", 0):
            return
        os.write(2, f"FORBIDDEN {event} {arguments[1:]}{chr(10)}".encode())
        raise PermissionError("no network")

    sys.addaudithook(forbid)
"""
VERBS = """
    import shutil
    from pathlib import Path
    from napari_grata.cli import main
    from napari_grata.scans.samples import find_sample

    out = Path(sys.argv[1])
    eye, brain = (find_sample(key).path for key in ("fundus-disc", "brain-other-scanner"))
    centre = out / "centre"
    centre.mkdir()
    for name in ("first", "second"):
        shutil.copy(eye, centre / f"{name}{eye.suffix}")
    fundus = ["--model", "fundus-disc-cup"]
    head = ["--model", "brain-tissue-t1", "--slices", "25-26"]
    for words in (
        ["models"],
        ["segment", eye, *fundus, "--out", out / "masks"],
        ["adapt", brain, *head, "--method", "as-published", "--out", out / "adapted"],
        ["reopen", out / "adapted" / "run", "--out", out / "again"],
        ["shift", eye, *fundus],
        ["cases", centre, *fundus, "--method", "batch-norm", "--list", out / "list"],
        ["report", out / "list", "--out", out / "report.html"],
        ["report", out / "adapted" / "run", "--out", out / "run.html"],
        ["masks", out / "list", "--out", out / "final"],
        ["doctor", "--no-speed"],
    ):
        code = main([*map(str, words), "--quiet"])
        if code and words[0] != "doctor":  # which tells with it what the machine lacks
            sys.exit(f"{words[0]} failed")
    print("done")
"""
DOCK = """
    import time
    import napari
    from qtpy.QtWidgets import QApplication

    viewer = napari.Viewer()
    viewer.open_sample("napari-grata", "brain-other-scanner")
    _, dock = viewer.window.add_plugin_dock_widget("napari-grata", "Adapt to a new centre")

    def wait(condition):
        end = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < end
            QApplication.processEvents()
            time.sleep(0.01)

    context = dock.context
    wait(lambda: bool(context.devices and context.scan) and not context.runner.busy)
    context.slices_text = "26"
    wait(lambda: dock.next.button.isEnabled())
    dock.next.button.click()
    wait(lambda: not context.runner.busy and context.session and context.session.adapted_slices)
    viewer.close()
    print("done", flush=True)
    os._exit(0)
"""
REACHES = re.compile(r"^\d+ +(?!socket\(|bind\(.*\"::1\")\w+\(.*\bAF_(INET6?|PACKET)\b")
"""A call as strace writes it that reaches out, or waits for others to reach in."""
LEAK = """
    import ctypes, struct
    try:
        socket.getaddrinfo("localhost", 80)
    except PermissionError:
        pass
    # Past Python, as a library in C would.
    c = ctypes.CDLL(None)
    handle = c.socket(int(socket.AF_INET), int(socket.SOCK_STREAM), 0)
    address = struct.pack("=H", int(socket.AF_INET)) + b"\\0\\x09\\x7f\\0\\0\\1" + bytes(8)
    c.connect(handle, address, 16)
    print("done")
"""


def has_strace() -> bool:
    """Whether strace is there and may trace."""
    if shutil.which("strace") is None:
        return False
    return (
        subprocess.run(["strace", "-f", "--seccomp-bpf", "true"], capture_output=True).returncode
        == 0
    )


def connections(program: str, folder: Path) -> list[str]:
    """Run a program that ends by printing ``done``; return what it tried to reach."""
    log = folder / "calls"
    tracer = [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-e",
        "trace=%network",
        "-e",
        "signal=none",
        "-o",
        str(log),
    ]
    code = textwrap.dedent(HOOK) + textwrap.dedent(program)
    done = subprocess.run(
        [*(tracer if has_strace() else []), sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout.splitlines()[-1:] == ["done"], done.stderr[-3000:]
    found = [line for line in done.stderr.splitlines() if line.startswith("FORBIDDEN")]
    if log.exists():
        calls = log.read_text(errors="replace").splitlines()
        found += [call for call in calls if REACHES.search(call)]
    return found


def test_a_connection_would_be_seen(tmp_path: Path) -> None:
    found = connections(LEAK, tmp_path)
    assert any("socket.getaddrinfo" in line for line in found)
    if has_strace():
        assert any("connect(" in line and "127.0.0.1" in line for line in found)


def test_no_verb_opens_a_connection(tmp_path: Path) -> None:
    assert connections(VERBS, tmp_path) == []
    for name in ("masks", "adapted/run", "list/list.sqlite", "report.html", "final"):
        assert (tmp_path / name).exists(), name


@pytest.mark.skipif(
    sys.platform.startswith("linux")
    and not os.environ.get("DISPLAY", "").startswith(":")
    and not os.environ.get("WAYLAND_DISPLAY"),
    reason="there is no screen here, or only one across the network",
)
def test_the_dock_opens_and_adapts_without_a_connection(tmp_path: Path) -> None:
    assert connections(DOCK, tmp_path) == []
