"""Try thousands of made-up inputs on the plugin and count what comes of them.

    python tools/fuzz.py nifti --n 10000 --seed 0

Kinds are the modules in ``tools/generators``. Exit code 1 where anything was raw, slow or wrong;
each such input is named by its number and can be made again with ``--only NUMBER``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.generators import KINDS, attempt

COUNTS = ("tried", "refused", "right", "raw", "slow", "wrong")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=(*KINDS, "all"))
    parser.add_argument("--n", type=int, default=1000, help="inputs of each kind (1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="only the input of this number")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that failed")
    parser.add_argument("--words", action="store_true", help="print the commonest refusals")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    failed = 0
    for kind in KINDS if options.kind == "all" else (options.kind,):
        counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
        words: Counter[str] = Counter()
        slowest = 0.0
        for number in range(options.n) if options.only is None else (options.only,):
            folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
            outcome = attempt(kind, Random(f"{kind} {options.seed} {number}"), folder)
            counts["tried"] += 1
            counts[outcome.result] += 1
            slowest = max(slowest, outcome.seconds)
            if outcome.result == "refused":
                words[outcome.detail.partition(": ")[2].partition(": ")[2][:70]] += 1
            elif outcome.result != "right":
                failed += 1
                print(f"{kind} {number}: {outcome.result}: {outcome.detail}", file=sys.stderr)
                if options.keep is not None:
                    shutil.copytree(folder, options.keep / f"{kind}-{options.seed}-{number}")
            shutil.rmtree(folder)
        print(
            json.dumps(
                {"kind": kind, "seed": options.seed, **counts, "slowest_s": round(slowest, 2)}
            )
        )
        if options.words:
            for text, count in words.most_common(25):
                print(f"  {count:6} {text}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
