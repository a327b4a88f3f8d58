"""Choose the *Careful* preset on the development centres, and say honestly what it is worth.

Two stages. First the statistics alone (blend α, with and without six views), where a candidate
costs one or six forward passes a slice. Then learning: method × learning rate × the blends that
did best, each as one long run from which every number of passes and way of predicting follows,
for θ is kept at every step.

The choice maximises the mean Dice gain over the source model across centres and structures, with
a guard: no structure of any centre may lose more than ``--loss`` points, nor its worst tenth more
than ``--tail-loss``. Because a figure on the centres that chose it flatters, the same choice
is made with each centre left out in turn, and reported on that centre.

    python benchmarks/sweep.py --data ../shared/data --out out/sweep --jobs 2
    python benchmarks/sweep.py --out out/sweep --report-only

Every run is kept in ``--out`` and not done again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_grata.adaptation import Settings, make_method
from napari_grata.evaluation import open_cohort, worst_tenth
from napari_grata.scans import open_scan, read_mask
from napari_grata.scans.files import write_text
from napari_grata.segmenters import load_card, load_segmenter, structure_mask

CENTRES = {
    "RIM-ONE_r3": ("fundus-disc-cup", "local_disc_cup", {255: 0, 128: 1, 0: 2}),
    "Drishti-GS_tight": ("fundus-disc-cup", "local_disc_cup", {255: 0, 128: 1, 0: 2}),
    "B_1.0mm": ("brain-tissue-t1", "local_brain_T1_IBSR18", None),
    "C_0.8371mm": ("brain-tissue-t1", "local_brain_T1_IBSR18", None),
}
GENTLE: dict[str, Any] = {"method": "grata", "symmetric_entropy": True, "perturbation": 0.05}
METHODS: dict[str, dict[str, Any]] = {
    "consistency": {"method": "consistency"},
    "grata": GENTLE,
    # Entropy asks for no six views, which a network that never saw heads upside down cannot give.
    "grata-entropy": {**GENTLE, "pseudo": "entropy"},
    "grata-swapped": {**GENTLE, "auxiliary": "consistency", "pseudo": "entropy"},
}
BLENDS = (0.0, 0.05, 0.1, 0.2, 0.3, 1.0)
RATES = (3e-4, 1e-3, 3e-3)
PASSES = 2


@dataclass
class Stream:
    """One centre's slices as the network reads them, with their truth, in stream order."""

    segmenter: Any
    prepared: list[Any]
    truth: list[np.ndarray]
    case: list[int]
    scan: list[int]


def load_stream(data: Path, models: Path, centre: str, every: int, brain_every: int) -> Stream:
    """Read a part of a centre: every so many photographs, or slices of each volume."""
    model, folder, labels = CENTRES[centre]
    segmenter = load_segmenter(models / model, device="cpu")
    found = open_cohort(data / folder, [centre]).centres[0]
    stream = Stream(segmenter, [], [], [], [])
    photographs = found.kind == "photographs"
    for number, case in enumerate(found.cases[:: every if photographs else 1]):
        scan = open_scan(case.image)
        mask = read_mask(case.mask, scan, labels=labels)
        slices = [0] if photographs else range(scan.n_slices)
        if not photographs:
            # Slices with something in them: the others have nothing to measure or to learn from.
            slices = [i for i in slices if scan.read_slice(i).any()][
                brain_every // 2 :: brain_every
            ]
        for index in slices:
            stream.prepared.append(segmenter.prepare(scan, index))
            stream.truth.append(scan.get_mask(mask, index))
            stream.case.append(number)
            stream.scan.append(0 if photographs else number)
    return stream


class Tally:
    """Intersections and areas by case and structure; volumes count over their slices."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.names = [s.name for s in stream.segmenter.card.structures]
        self.sums = np.zeros((max(stream.case) + 1, len(self.names), 2))

    def add(self, index: int, probabilities: torch.Tensor) -> None:
        segmenter = self.stream.segmenter
        prepared = self.stream.prepared[index]
        labels = segmenter.label_map(segmenter.restore(probabilities[0], prepared))
        for place, name in enumerate(self.names):
            mine = structure_mask(segmenter.card, labels, name)
            true = structure_mask(segmenter.card, self.stream.truth[index], name)
            self.sums[self.stream.case[index], place] += (
                2 * int((mine & true).sum()),
                int(mine.sum()) + int(true.sum()),
            )

    def result(self) -> dict[str, list[float]]:
        dice = np.where(self.sums[..., 1] > 0, self.sums[..., 0] / self.sums[..., 1].clip(1), 1.0)
        return {name: dice[:, place].tolist() for place, name in enumerate(self.names)}


def key(**settings: Any) -> str:
    """Return a candidate's name, which is also its settings."""
    return json.dumps(settings, sort_keys=True)


def still(stream: Stream, blend: float) -> dict[str, dict[str, list[float]]]:
    """Statistics alone: one candidate with six views and one without."""
    settings = Settings(method="batch-norm", blend=blend, six_views=True)
    method = make_method(settings, stream.segmenter.network, stream.segmenter.card.activation)
    one, six = Tally(stream), Tally(stream)
    for index, prepared in enumerate(stream.prepared):
        output = method.predict(prepared.image)
        one.add(index, stream.segmenter.probabilities(output.logits))
        six.add(index, output.probabilities)
    named = {"method": "batch-norm", "blend": blend}
    return {key(**named, six_views=False): one.result(), key(**named, six_views=True): six.result()}


def learning(
    stream: Stream, method_name: str, blend: float, rate: float, passes: int
) -> dict[str, dict[str, list[float]]]:
    """One run of all passes; a candidate for each number of passes and way of predicting.

    As in the benchmark, passes run within a volume, and the state lives on to the next one.
    """
    settings = Settings(blend=blend, learning_rate=rate, passes=passes, **METHODS[method_name])
    segmenter = stream.segmenter
    found: dict[str, dict[str, list[float]]] = {}
    # A volume's state depends on the passes over the ones before: one run a number of passes,
    # save for photographs, where the centre is one list and a longer run holds the shorter ones.
    one_list = len(set(stream.scan)) == 1
    for last in [passes] if one_list else range(1, passes + 1):
        reported = range(1, last + 1) if one_list else [last]
        learner = make_method(settings, segmenter.network, segmenter.card.activation)
        viewer = make_method(
            settings.but(six_views=True), segmenter.network, segmenter.card.activation
        )
        tallies = {
            (number, predict, six): Tally(stream)
            for number in reported
            for predict, six in (("stream", False), ("average", False), ("average", True))
        }
        for scan in sorted(set(stream.scan)):
            members = [i for i, s in enumerate(stream.scan) if s == scan]
            total, steps = torch.zeros_like(learner.theta(), dtype=torch.float64), 0
            for number in range(1, last + 1):
                for index in members:
                    record = learner.step(stream.prepared[index].image)
                    total += learner.theta()
                    steps += 1
                    if number in reported:
                        tallies[number, "stream", False].add(
                            index, segmenter.probabilities(record.logits)
                        )
                if number not in reported:
                    continue
                viewer.load_theta((total / steps).float())
                for index in members:
                    output = viewer.predict(stream.prepared[index].image)
                    plain = segmenter.probabilities(output.logits)
                    tallies[number, "average", False].add(index, plain)
                    tallies[number, "average", True].add(index, output.probabilities)
        for (number, predict, six), tally in tallies.items():
            candidate = key(
                method=method_name,
                blend=blend,
                learning_rate=rate,
                passes=number,
                predict=predict,
                six_views=six,
            )
            found[candidate] = tally.result()
    return found


_cache: dict[str, Stream] = {}


def do(job: dict[str, Any]) -> str:
    """Do one run in a worker and keep its result."""
    torch.set_num_threads(1)
    part = Path(job["part"])
    if not part.exists():
        if job["centre"] not in _cache:
            _cache.clear()
            _cache[job["centre"]] = load_stream(
                Path(job["data"]),
                Path(job["models"]),
                job["centre"],
                job["every"],
                job["brain_every"],
            )
        stream = _cache[job["centre"]]
        begin = time.perf_counter()
        if job["method"] == "batch-norm":
            found = still(stream, job["blend"])
        else:
            found = learning(stream, job["method"], job["blend"], job["rate"], job["passes"])
        said = {"job": job, "seconds": time.perf_counter() - begin, "results": found}
        write_text(part, json.dumps(said))
    return part.stem


def run(jobs: list[dict[str, Any]], workers: int) -> None:
    """Do all jobs that are not done."""
    todo = [job for job in jobs if not Path(job["part"]).exists()]
    begin = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        for number, done in enumerate(as_completed(pool.submit(do, job) for job in todo), 1):
            spent = time.perf_counter() - begin
            left = spent / number * (len(todo) - number)
            where = f"{number}/{len(todo)}, {spent:.0f} s, about {left:.0f} s left"
            print(f"[{where}] {done.result()}", flush=True)


Results = dict[str, dict[str, dict[str, list[float]]]]  # candidate → centre → structure → Dice


def weights_hash(folder: Path) -> str:
    """Return the first digits of the SHA-256 of a model's weights."""
    return (load_card(folder).weights_sha256 or "unknown")[:8]


def collect(out: Path, models: Path) -> Results:
    """Read every run of the present weights; only candidates measured on all centres."""
    found: Results = {}
    for part in sorted((out / "parts").glob("*.json")):
        said = json.loads(part.read_text(encoding="utf-8"))
        if f"__{weights_hash(models / CENTRES[said['job']['centre']][0])}__" not in part.name:
            continue
        for candidate, structures in said["results"].items():
            found.setdefault(candidate, {})[said["job"]["centre"]] = structures
    return {name: centres for name, centres in found.items() if len(centres) == len(CENTRES)}


SOURCE = key(method="batch-norm", blend=0.0, six_views=False)


def gains(results: Results, candidate: str, centre: str) -> Iterator[tuple[str, float, float]]:
    """Yield (structure, gain of the mean, gain of the worst tenth) in points of Dice."""
    for structure, source in results[SOURCE][centre].items():
        mine = results[candidate][centre][structure]
        yield (
            structure,
            100 * (float(np.mean(mine)) - float(np.mean(source))),
            100 * (worst_tenth(mine) - worst_tenth(source)),
        )


def objective(results: Results, candidate: str, centres: list[str]) -> float:
    """Return the mean gain: structures count equally in a centre, and centres in the whole."""
    return float(
        np.mean([np.mean([g for _, g, _ in gains(results, candidate, c)]) for c in centres])
    )


def harmless(
    results: Results, candidate: str, centres: list[str], loss: float, tail: float
) -> bool:
    """Whether no structure of any centre loses more than is allowed."""
    return all(
        mean >= -loss and worst >= -tail
        for centre in centres
        for _, mean, worst in gains(results, candidate, centre)
    )


def choose(results: Results, centres: list[str], loss: float, tail: float) -> str:
    """Return the best harmless candidate that learns, on these centres."""
    learnt = [name for name in results if json.loads(name)["method"] != "batch-norm"]
    safe = [name for name in learnt if harmless(results, name, centres, loss, tail)]
    return max(safe or learnt, key=lambda name: objective(results, name, centres))


def short(candidate: str) -> str:
    """Write a candidate in a line."""
    said = json.loads(candidate)
    words = [said["method"], f"α {said['blend']:g}"]
    if "learning_rate" in said:
        words += [f"rate {said['learning_rate']:g}", f"{said['passes']} passes", said["predict"]]
    return ", ".join(words + (["six views"] if said["six_views"] else []))


def report(out: Path, models: Path, loss: float, tail: float) -> None:
    """Print the best candidates, the choice, and the choice with each centre left out."""
    results = collect(out, models)
    everywhere = list(CENTRES)
    ranked = sorted(results, key=lambda name: -objective(results, name, everywhere))
    print(f"{len(results)} candidates; gain over source in points of Dice, mean (worst tenth)\n")
    print("| candidate | mean | harmless | " + " | ".join(everywhere) + " |")
    print("|---" * (3 + len(everywhere)) + "|")
    chosen = choose(results, everywhere, loss, tail)
    statistics_only = [n for n in ranked if json.loads(n)["method"] == "batch-norm"]
    for name in dict.fromkeys([chosen, *ranked[:15], *statistics_only]):
        cells = [
            "; ".join(f"{s} {m:+.1f} ({w:+.1f})" for s, m, w in gains(results, name, centre))
            for centre in everywhere
        ]
        safe = "yes" if harmless(results, name, everywhere, loss, tail) else "no"
        print(
            f"| {short(name)} | {objective(results, name, everywhere):+.2f} | {safe} | "
            + " | ".join(cells)
            + " |"
        )
    print(f"\nChosen on all centres: {short(chosen)}\n")
    print("| left out | chosen on the others | gain on the left-out centre |")
    print("|---|---|---|")
    left_out = []
    for centre in everywhere:
        others = [other for other in everywhere if other != centre]
        name = choose(results, others, loss, tail)
        left_out.append(objective(results, name, [centre]))
        cell = "; ".join(f"{s} {m:+.1f} ({w:+.1f})" for s, m, w in gains(results, name, centre))
        print(f"| {centre} | {short(name)} | {cell} |")
    print(f"\nMean gain on left-out centres: {np.mean(left_out):+.2f} points")
    (out / "chosen.json").write_text(chosen, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--models", type=Path, default=Path("models"), help="their folder (models)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--centres", nargs="*", default=list(CENTRES), help="run only these now")
    parser.add_argument("--every", type=int, default=2, help="every so many photographs (2)")
    parser.add_argument("--brain-every", type=int, default=16, help="every so many slices (16)")
    parser.add_argument("--still", type=float, nargs="*", default=list(BLENDS), help="without it")
    parser.add_argument("--blends", type=float, nargs="*", help="for learning; default: best two")
    parser.add_argument("--rates", type=float, nargs="*", default=list(RATES))
    parser.add_argument("--methods", nargs="*", default=["consistency", "grata"])
    parser.add_argument("--passes", type=int, default=PASSES)
    parser.add_argument("--loss", type=float, default=0.3, help="points a mean may lose (0.3)")
    parser.add_argument("--tail-loss", type=float, default=1.0, help="… a worst tenth (1.0)")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--report-only", action="store_true")
    options = parser.parse_args()
    (options.out / "parts").mkdir(parents=True, exist_ok=True)
    names = {model for model, _, _ in CENTRES.values()}
    hashes = {name: weights_hash(options.models / name) for name in names}

    def job(centre: str, method: str, blend: float, rate: float = 0.0) -> dict[str, Any]:
        # Weights in the name: a model trained again makes its runs stale.
        name = f"{centre}__{hashes[CENTRES[centre][0]]}__{method}__{blend:g}__{rate:g}"
        return {
            "part": str(options.out / "parts" / f"{name}.json"),
            "data": str(options.data),
            "models": str(options.models),
            "centre": centre,
            "every": options.every,
            "brain_every": options.brain_every,
            "method": method,
            "blend": blend,
            "rate": rate,
            "passes": options.passes,
        }

    if not options.report_only:
        first = [
            job(c, "batch-norm", b) for c, b in itertools.product(options.centres, options.still)
        ]
        run(first, options.jobs)
        blends = options.blends
        if not blends:
            results = collect(options.out, options.models)
            ranked = sorted(
                (b for b in options.still if b < 1),
                key=lambda b: (
                    -objective(
                        results, key(method="batch-norm", blend=b, six_views=True), list(CENTRES)
                    )
                ),
            )
            blends = ranked[:2]
        print(f"Learning with α of {', '.join(map(str, blends))}")
        grid = itertools.product(options.centres, options.methods, blends, options.rates)
        run([job(*one) for one in grid], options.jobs)
    if set(options.centres) == set(CENTRES):
        report(options.out, options.models, options.loss, options.tail_loss)


if __name__ == "__main__":
    main()
