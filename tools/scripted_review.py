"""A script reviews a small list as a user would, and what it was told is done is held to later.

Run as a program it forks a worker for each line that it reads, so that torch is loaded once: see
`Workers`.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import nibabel as nib
import numpy as np
import torch
from PIL import Image

from napari_grata.adaptation import AdaptationRun, RunFolderError, Settings, reopen
from napari_grata.review.adapt_list import work_on_case
from napari_grata.review.case_list import CaseList
from napari_grata.review.case_work import is_finished
from napari_grata.review.cases import DecisionError, ListError
from napari_grata.scans import open_scan, read_mask
from napari_grata.scans.files import FileError
from napari_grata.segmenters import build_network, load_segmenter, register_network, write_model

CASES = 4
SETTINGS = Settings(learning_rate=1e-3, predict="average")
VERDICTS = ("accept", "reject", "edit")
Told = list[list[str]]
Act = Callable[[], None]
Fault = tuple[int, int, bool]
"""Number of the call that fails, with which error, and whether all later ones fail, too."""


def _tiny(outputs: int, channels: int) -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(channels, 4, 3, padding=1),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, outputs, 1),
    )


def make(folder: Path) -> Path:
    """Make scans, a model and a list of them in a folder; return the list's."""
    from tools.generators.models import small_card

    register_network("scripted-review", _tiny)
    rng = np.random.default_rng(0)
    (folder / "centre").mkdir(parents=True)
    for number in range(1, CASES + 1):
        data = rng.normal(100, 20, (24, 28, 3)).astype(np.float32)
        data[8:16, 8:20] += 100
        image = nib.Nifti1Image(data, np.diag([1.0, 1.0, 2.0, 1.0]))
        nib.save(image, folder / "centre" / f"scan {number}.nii.gz")
    card = small_card(architecture="scripted-review", size=(32, 32))
    write_model(folder / "model", card, build_network(card))
    cases = CaseList.make(folder / "centre", folder / "list")
    cases.choose(carry=True, position="case-0001")
    cases.close()
    return cases.folder


class Review:
    """A list that is open, and what one turn of its review consists of.

    Parameters
    ----------
    folder : Path
        The list's, as `make` made it.
    done : callable
        Told in words of each act that was acknowledged, at once.
    number : int
        Of the worker; what it draws depends on it.
    """

    def __init__(self, folder: Path, done: Callable[..., None], number: int = 0) -> None:
        register_network("scripted-review", _tiny)
        self.cases = CaseList.load(folder)
        if not self.cases.writable:
            raise ListError(str(self.cases.read_only))
        self.segmenter = load_segmenter(folder.parent / "model", device="cpu")
        self.scans = [open_scan(case.sources[0]) for case in self.cases.cases]
        self._done, self._number = done, number

    def turn(self, turn: int) -> Iterator[Act]:
        """Yield the acts of a turn; each may raise an error of ours."""
        cases, place = self.cases, turn % len(self.cases)
        case, scan = cases.cases[place], self.scans[place]

        def decide() -> None:
            verdict = VERDICTS[turn % 3]
            made = cases.decide(case.key, verdict, mask=cases.mask_now(case))
            self._done("decision", made.number, case.key, verdict)

        def undo() -> None:
            undone = cases.undo()
            if undone is not None:
                self._done("undo", undone.number)

        def draw() -> None:
            cases.choose(position=case.key)
            value = 1 + (self._number * 31 + turn) % 250
            drawn = np.full(scan.mask_shape, value, np.uint8)
            self._done("edit", case.key, cases.work(case).save_edit(drawn, scan), value)

        def adapt() -> None:
            items: Any = work_on_case(cases, case, self.segmenter, SETTINGS)
            if turn % 4 == 3:  # cancelled in its midst
                next(items), next(items), next(items)
                items.close()
                return
            summary = list(items)[-1]
            if summary.error:
                raise ListError(summary.error)
            self._done("run", case.key, summary.run)

        yield decide
        if (self._number + turn) % 3 == 0:
            yield undo
        yield draw
        yield adapt


def check(folder: Path, told: Told, *, everything: bool = False) -> None:
    """Hold a list to what its script was told is done.

    Parameters
    ----------
    everything : bool
        Also read every file in its folder.
    """
    cases = CaseList.load(folder)
    try:
        assert cases.read_only is None, cases.read_only
        assert len(cases) == CASES
        assert cases.position is not None
        assert cases.carry
        made = {decision.number: decision for decision in cases.history}
        drawn: dict[str, list[tuple[int, int]]] = {}
        for kind, *words in told:
            if kind == "decision":
                number, key, verdict = words
                assert (made[int(number)].case, made[int(number)].verdict) == (key, verdict)
            elif kind == "undo":
                assert made[int(words[0])].undone
            elif kind == "edit":
                drawn.setdefault(words[0], []).append((int(words[1]), int(words[2])))
            elif kind == "run":
                key, run = words
                assert is_finished(cases.work(key).folder / run)
                summary = cases.summary(key)
                assert summary is not None
                assert summary.adapted
                assert summary.run >= run
        for key, versions in drawn.items():
            work = cases.work(key)
            scan = open_scan(cases.case(key).sources[0])
            last, last_value = versions[-1]
            labels = work.edit(scan, last)
            assert labels is not None
            assert (labels == last_value).all()
            assert {number for number, _ in versions} <= {entry.number for entry in work.edits}
            assert work.notices == []
        assert cases.notices == []
        if everything:
            _read_everything(cases)
    finally:
        cases.close()


def _read_everything(cases: CaseList) -> None:
    for path in cases.folder.rglob("*"):
        if path.name.startswith(".partial-") or not path.is_file():
            continue
        if path.suffix == ".json":
            assert isinstance(json.loads(path.read_bytes()), dict), path
        elif path.suffix == ".png":
            Image.open(path).verify()
    for case in cases.cases:
        scan = open_scan(case.sources[0])
        work = cases.work(case)
        for entry in work.edits:
            assert work.edit(scan, entry.number) is not None
        for run in work.run_folders():
            # One that never began holds nothing that was told of.
            try:
                found = reopen(run, scan)
            except RunFolderError:
                assert not is_finished(run)
                continue
            found.close()
            for name in ("source", "adapted"):
                mask = run / f"{name}.nii.gz"
                if mask.exists():
                    read_mask(mask, scan)
            if is_finished(run):
                assert set(found.adapted_masks) == set(range(scan.n_slices))


class Workers:
    """Workers that review a list, each in a process of its own that may be killed.

    Parameters
    ----------
    folder : Path
        The list's.
    acks : Path
        Where they write what they are told is done, one write call an act.
    environment : dict of str to str, optional
    """

    def __init__(self, folder: Path, acks: Path, environment: dict[str, str] | None = None) -> None:
        self.acks = acks
        self._program = subprocess.Popen(
            [sys.executable, __file__, str(folder), str(acks)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {}), "OMP_NUM_THREADS": "1"},
        )
        assert self._answer() == "ready"

    def begin(self, number: int = 0, **options: Any) -> int:
        """Let a worker begin with the options of its work; return its process.

        ``what`` is "review", `_review`, or "run", `_run`.
        """
        assert self._program.stdin is not None
        self._program.stdin.write(json.dumps({"number": number, **options}) + "\n")
        self._program.stdin.flush()
        return int(self._answer())

    def end(self) -> int:
        """Wait for the worker to end; return how, as `os.waitpid` tells it."""
        return int(self._answer())

    def _answer(self) -> str:
        assert self._program.stdout is not None
        return self._program.stdout.readline().strip()

    @property
    def told(self) -> Told:
        """What they were told is done."""
        lines = self.acks.read_text().splitlines() if self.acks.exists() else []
        return [line.split() for line in lines]

    def close(self) -> None:
        self._program.kill()
        self._program.communicate()


def _review(
    folder: Path,
    acks: Path,
    number: int,
    turns: int | None = None,
    fault: Fault | None = None,
    count_to: str | None = None,
    power: str | None = None,
) -> None:
    """Review a list for so many turns, or until killed.

    ``power`` is a folder for what the disk would hold if the power went; see ``disk_power.c``.
    With a fault errors of ours are what is expected, and any other is not.
    """
    report = os.open(acks, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def done(*words: object) -> None:
        os.write(report, (" ".join(map(str, words)) + "\n").encode())

    if fault is not None:
        _let_fail(folder, *fault)
    if power is not None:
        _keep_what_is_synced(folder, Path(power))
    expected = () if fault is None else (ListError, RunFolderError, FileError)
    try:
        review = Review(folder, done, number)
    except expected:
        return  # it cannot be opened for writing
    turn = 0
    while turns is None or turn < turns:
        turn += 1
        for act in review.turn(turn):
            try:
                act()
            except expected as error:
                _must_be_true(error)
    if fault is not None and review.cases.unsaved:
        try:
            review.cases.retry()
            done("decision", *_last(review.cases))
        except DecisionError:
            pass
    review.cases.close()
    _count_to(count_to)


def _run(folder: Path, acks: Path, number: int, fault: Fault, count_to: str | None = None) -> None:
    """Adapt to a scan on a disk that fails at some call, and go on once it is well again."""
    register_network("scripted-review", _tiny)
    segmenter = load_segmenter(folder.parent / "model", device="cpu")
    scan = open_scan(folder.parent / "centre" / "scan 1.nii.gz")
    _let_fail(folder, *fault)
    run = None
    steps = 0
    try:
        run = AdaptationRun(segmenter, scan, SETTINGS, folder=folder / "run")
        for _ in run.records():
            steps += 1
    except RunFolderError as error:
        _must_be_true(error)
    _count_to(count_to)
    _let_fail(folder)
    acks.write_text("step\n" * steps)
    if run is None:
        return
    assert len(run.past) == steps
    if steps:
        kept = reopen(folder / "run", scan)
        assert len(kept.records) >= steps
        kept.close()
    list(run.resume())
    run.close()
    kept = reopen(folder / "run", scan)
    assert kept.state == "finished"
    assert all((kept.adapted_masks[i] == run.adapted_masks[i]).all() for i in range(scan.n_slices))
    kept.close()


def _must_be_true(error: Exception) -> None:
    """Hold an error to be a sentence, and not one on other programs, for there are none."""
    words = str(error)
    assert words[-1] in ".?)", words
    assert "another program" not in words.lower(), words


def _let_fail(folder: Path, at: int = 0, code: int = 0, for_good: bool = False) -> None:
    """Let a call below a folder fail; see ``disk_faults.c``."""
    disk = ctypes.CDLL(None)
    disk.disk_faults(os.fsencode(folder), ctypes.c_long(at), code, int(for_good))


def _keep_what_is_synced(folder: Path, kept: Path) -> None:
    """Keep what the disk would hold below a folder, from all that is there now on."""
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder, kept / "tree")
    (kept / "files").mkdir()
    for path in folder.rglob("*"):
        if path.is_file():
            shutil.copyfile(path, kept / "files" / str(path.stat().st_ino))
    ctypes.CDLL(None).disk_power(os.fsencode(folder), os.fsencode(kept))


def _count_to(path: str | None) -> None:
    """Write down how many calls there were since `_let_fail`."""
    if path is not None:
        Path(path).write_text(str(ctypes.CDLL(None).disk_calls()))


def _last(cases: CaseList) -> tuple[int, str, str]:
    last = cases.history[-1]
    return last.number, last.case, last.verdict


def main() -> None:
    folder, acks = (Path(argument) for argument in sys.argv[1:3])
    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                options = json.loads(line)
                work: Any = _run if options.pop("what", "review") == "run" else _review
                work(folder, acks, **options)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    main()
