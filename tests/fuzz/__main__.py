"""Feed many mutated inputs to the toolkit and count what comes of them.

    python -m tests.fuzz --inputs 20000 --seed 0

Every failure is printed with the kind, its seed and the traceback; the exit code is 1 then.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tabulate import tabulate

from tests.fuzz.run import KINDS, fuzz


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000, help="inputs of all kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=[kind.name for kind in KINDS], help="only this one")
    options = parser.parse_args()
    kinds = [kind for kind in KINDS if options.kind in (None, kind.name)]
    total = sum(kind.share for kind in kinds)
    rows = []
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            count = max(1, round(options.inputs * kind.share / total))
            counts, failures = fuzz(kind, Path(folder), count, options.seed, progress=True)
        rows.append((kind.name, count, *counts.values()))
        for failure in sorted(failures, key=lambda text: "SilentChange" in text)[:5]:
            print(failure, file=sys.stderr)
    sums = ("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:]))
    heads = ("inputs of", "count", "read", "refused", "tracebacks", "silent changes", "hangs")
    print(tabulate([*rows, sums], heads))
    return int(any(sums[4:]))


if __name__ == "__main__":
    sys.exit(main())
