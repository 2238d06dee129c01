"""Speed beside other people's programs: one table, each row two programs on the same inputs.

    pip install -r benchmarks/requirements.txt
    python benchmarks/run.py
    python benchmarks/run.py --rows scoring,scored --repeats 3

Rows: whole, inference, limit, exact, hnsw, ivf, scoring, scored, precision, memory. A row that is
finished is kept in --out and not measured again (--again does); a row that fails says so and leaves
the others alone. Each is measured in a process of its own, since some of these programs change
FAISS or PyTorch for all that run beside them. Give it a quiet machine: all of the rows take more
than an hour.
"""

import argparse
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if not __package__:  # started as a file: its folder would hide modules of the same name
    sys.path[0] = str(ROOT)

from benchmarks.rows import Given, Row, table  # noqa: E402
from lookalike.core.files import read_json, write_json  # noqa: E402
from lookalike.core.log import log_to  # noqa: E402

CASES = {
    "whole": ("whole_way", "whole_way"),
    "inference": ("whole_way", "inference"),
    "limit": ("embedding", "beside_the_model"),
    "exact": ("big_gallery", "exact"),
    "hnsw": ("big_gallery", "graph"),
    "ivf": ("big_gallery", "lists"),
    "scoring": ("scoring", "from_the_file"),
    "scored": ("scoring", "parsed_already"),
    "precision": ("scoring", "full_ranking"),
    "memory": ("memory", "flat"),
}


def measured(case: str, arguments: Given, again: bool) -> list[Row]:
    """The rows of a case: kept from an earlier run with the same arguments, or measured now."""
    path = arguments.out / "rows" / f"{case}.json"
    settings = {name: str(value) for name, value in asdict(arguments).items()}
    kept = read_json(path, "this program") if path.is_file() and not again else {}
    if kept.get("asked") != settings:
        room, name = CASES[case]
        work: Callable[[Given], list[Row]] = getattr(import_module(f"benchmarks.{room}"), name)
        kept = {"asked": settings, "rows": [asdict(row) for row in work(arguments)]}
        write_json(path, kept)
    return [Row(**row) for row in kept["rows"]]


def main() -> int:
    """See the top of this file; returns the exit code."""
    parser = argparse.ArgumentParser(description="Speed beside other people's programs.")
    source = ROOT.parent / "shared" / "data" / "lfw62"
    parser.add_argument("--source-path", type=Path, default=source, help="LFW62's class folders")
    parser.add_argument("--rows", default=",".join(CASES), help="names, separated by commas")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pictures", type=int, help="of LFW62, at most (not for the row `whole`)")
    parser.add_argument("--gallery", type=int, default=1_000_000, help="size of the big gallery")
    parser.add_argument("--many", type=int, default=1_000_000, help="pictures of the row `memory`")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "benchmarks")
    parser.add_argument("--again", action="store_true", help="measure what is finished, too")
    parser.add_argument("--only", choices=CASES, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    unknown = [name for name in settings.rows.split(",") if name not in CASES]
    if unknown:
        parser.error(f"--rows {unknown[0]}: must be among {', '.join(CASES)}")
    log_to(None)
    logging.getLogger("toolkit").setLevel(logging.WARNING)
    out = settings.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    numbers = (settings.repeats, settings.pictures, settings.gallery, settings.many)
    arguments = Given(settings.source_path.resolve(), out, *numbers)
    if settings.only:
        measured(settings.only, arguments, settings.again)
        return 0
    rows, failed = [], []
    for case in settings.rows.split(","):
        print(f"{case} ...", file=sys.stderr, flush=True)
        command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--only", case]
        if subprocess.run(command, check=False).returncode:
            failed.append(case)
        else:
            rows += measured(case, arguments, again=False)
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.machine()}\n")
    print(table(rows))
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
