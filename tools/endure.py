"""Let a scripted review go through what a disk, a power switch and a long day do to it.

    python tools/endure.py kill --n 1000      # kill -9 at random moments
    python tools/endure.py power --n 1000     # the same, and what was not synced is gone
    python tools/endure.py faults             # every call below SQLite fails once, and for good
    python tools/endure.py soak --minutes 60  # memory and open files must not grow

Each prints what it found as JSON, and ends with an error where anything was lost or grew.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import gc
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.scripted_review import Review, Workers, check, make

SOURCES = Path(__file__).parent
ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO}
TURNS = 3
KILLS_A_LIST = 40
MOST_GROWTH = 16 * 2**20
"""A process that does the same again may need so many bytes more, and no more open files."""


def kill(folder: Path, count: int, seed: int = 4, power: Path | None = None) -> dict[str, int]:
    """Kill workers at random moments; return the acts of each kind that were acknowledged.

    With the library of ``disk_power.c`` the power goes too: the list is then what the disk held.
    An AssertionError says what was lost. The last list is left in ``folder/list``.
    """
    rng = random.Random(seed)
    found: Counter[str] = Counter()
    for begun in range(0, count, KILLS_A_LIST):
        shutil.rmtree(folder, ignore_errors=True)
        for number in _killed(folder, min(KILLS_A_LIST, count - begun), rng, power):
            found["killed"] += 1
            if number % KILLS_A_LIST == 0 and begun:
                print(json.dumps(found), file=sys.stderr, flush=True)
        told = (folder / "acks").read_text().splitlines()
        found.update(line.split()[0] for line in told)
    return dict(found)


def _killed(folder: Path, count: int, rng: random.Random, power: Path | None) -> Iterator[int]:
    """Kill so many workers on one list."""
    cases, kept = make(folder), folder / "kept"
    workers = Workers(cases, folder / "acks", {} if power is None else {"LD_PRELOAD": str(power)})
    options = {} if power is None else {"power": str(kept)}
    try:
        for number in range(count):
            before = len(workers.told)
            worker = workers.begin(number, **options)
            # Somewhere among its first dozen acknowledged acts, whatever the machine's speed.
            _wait_for(workers, before + rng.randint(1, 12))
            time.sleep(rng.uniform(0, 0.06))
            os.kill(worker, signal.SIGKILL)
            assert os.WIFSIGNALED(workers.end()), "the worker failed before it was killed"
            if power is not None:
                shutil.rmtree(cases)
                shutil.copytree(kept / "tree", cases)
            check(cases, workers.told, everything=number % 5 == 4)
            yield number
    finally:
        workers.close()


def _wait_for(workers: Workers, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(workers.told) < count:
        assert time.monotonic() < deadline, "the worker does not go on"
        time.sleep(0.002)


def compiled(name: str, folder: Path) -> Path | None:
    """Compile ``disk_faults`` or ``disk_power``; None where that cannot be done."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), "")
    if not compiler or not sys.platform.startswith("linux"):
        return None
    made, source = folder / f"{name}.so", SOURCES / f"{name}.c"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(made), str(source), "-ldl"]
    return None if subprocess.run(command, capture_output=True).returncode else made


class Faults:
    """A review of a list, or a single run, on a disk that fails at one of its calls.

    Attributes
    ----------
    calls : dict of str to int
        How many calls the "review" and the "run" make where none fails.
    """

    def __init__(self, folder: Path, library: Path) -> None:
        self._list = make(folder)
        self._fresh = folder / "fresh"
        shutil.copytree(self._list, self._fresh)
        self._workers = Workers(self._list, folder / "acks", {"LD_PRELOAD": str(library)})
        self.calls = {}
        for what in ("review", "run"):
            count = folder / what
            assert self._work(what, 0, 0, False, count_to=str(count)) == 0
            self.calls[what] = int(count.read_text())

    def _work(self, what: str, at: int, code: int, for_good: bool, **options: Any) -> int:
        shutil.rmtree(self._list)
        shutil.copytree(self._fresh, self._list)
        self._workers.acks.unlink(missing_ok=True)
        if what == "review":
            options["turns"] = TURNS
        self._workers.begin(what=what, fault=(at, code, for_good), **options)
        return self._workers.end()

    def fail(self, what: str, at: int, code: int, *, for_good: bool) -> int:
        """Let call number ``at`` fail; return how many acts were acknowledged all the same.

        An AssertionError says what was lost, or that it ended with another error than ours.
        """
        assert self._work(what, at, code, for_good) == 0, "ended with an error that is not ours"
        told = self._workers.told
        if what == "review":
            check(self._list, told, everything=True)
            # On a disk that is well again the review goes on.
            self._workers.begin(turns=1)
            assert self._workers.end() == 0, "does not go on"
            check(self._list, self._workers.told)
        return len(told)

    def close(self) -> None:
        self._workers.close()


def faults(folder: Path, library: Path, every: int = 1) -> dict[str, int]:
    """Let every so-manieth call fail, in each way; return what was counted."""
    faulty = Faults(folder, library)
    found = Counter({f"calls of a {what}": calls for what, calls in faulty.calls.items()})
    try:
        for what, calls in faulty.calls.items():
            for at in range(1, calls + 1, every):
                for name, code in ERRORS.items():
                    for for_good in (False, True):
                        try:
                            found["acknowledged"] += faulty.fail(what, at, code, for_good=for_good)
                        except AssertionError as error:
                            how = f"call {at} of a {what}, {name}, for good: {for_good}"
                            print(f"{how}: {error}", file=sys.stderr, flush=True)
                            found["failed"] += 1
                        found["tried"] += 1
        assert not found["failed"], dict(found)
        return dict(found)
    finally:
        faulty.close()


def soak(folder: Path, minutes: float, every: float = 30.0, turns: int = 12) -> dict[str, Any]:
    """Review one list after the other, each to its report, and watch what the process needs."""
    import psutil

    from napari_grata.review.final_masks import export_masks
    from napari_grata.review.report import report_cases, write_report

    process = psutil.Process()
    began = told = time.monotonic()
    seen: list[tuple[int, int, int]] = []  # bytes, open files, threads after each list
    lists = acts = 0
    while time.monotonic() - began < 60 * minutes or len(seen) < 12:
        place = folder / f"list-{lists}"
        review = Review(make(place), lambda *_: None, lists)
        for turn in range(1, turns + 1):
            for act in review.turn(turn):
                act()
                acts += 1
        write_report(place / "report.html", report_cases(review.cases))
        list(export_masks(review.cases, place / "masks"))
        review.cases.close()
        del review, act
        shutil.rmtree(place)
        lists += 1
        _give_back()
        seen.append((process.memory_info().rss, process.num_fds(), process.num_threads()))
        if time.monotonic() - told > every:
            told = time.monotonic()
            print(json.dumps(_now(told - began, lists, acts, seen[-1])), flush=True)
    quarter = len(seen) // 4
    # What is loaded once, and what allocators keep, is there after the first quarter.
    early, late = seen[quarter : 2 * quarter], seen[-quarter:]
    growth = statistics.median(one[0] for one in late) - statistics.median(one[0] for one in early)
    files = max(one[1] for one in late) - max(one[1] for one in early)
    found = _now(time.monotonic() - began, lists, acts, seen[-1])
    found |= {"growth_mb": round(growth / 2**20, 1), "more_files": files}
    assert growth < MOST_GROWTH, f"memory grew: {found}"
    assert files <= 0, f"more and more files are open: {found}"
    return found


def _give_back() -> None:
    """Free what nothing holds, and let the allocator give back what it only keeps."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def _now(seconds: float, lists: int, acts: int, seen: tuple[int, int, int]) -> dict[str, Any]:
    size, files, threads = seen
    known = {"minutes": round(seconds / 60, 1), "lists": lists, "acts": acts}
    return {**known, "memory_mb": round(size / 2**20, 1), "files": files, "threads": threads}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("kill", "power", "faults", "soak"))
    parser.add_argument("--n", type=int, default=1000, help="kills (1000)")
    parser.add_argument("--seed", type=int, default=4, help="of the moments of kills")
    parser.add_argument("--every", type=int, default=1, help="only every so-manieth call fails")
    parser.add_argument("--minutes", type=float, default=60, help="of the soak (60)")
    parser.add_argument("--interval", type=float, default=30, help="seconds between lines (30)")
    parser.add_argument("--disk", type=Path, help="folder on the disk to try (a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.disk) as place:
        folder = Path(place)
        os.environ["NAPARI_GRATA_HOME"] = str(folder / "home")
        try:
            if options.what == "kill":
                found: dict[str, Any] = kill(folder / "kill", options.n, options.seed)
            elif options.what == "soak":
                found = soak(folder, options.minutes, options.interval)
            else:
                library = compiled(f"disk_{options.what}", folder)
                if library is None:
                    sys.exit("There is no C compiler here, or no Linux.")
                if options.what == "power":
                    found = kill(folder / "power", options.n, options.seed, library)
                else:
                    found = faults(folder / "faults", library, options.every)
        except AssertionError as error:
            print(f"{options.what}: {error}", file=sys.stderr)
            return 1
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
