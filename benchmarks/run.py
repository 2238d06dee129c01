"""Speed beside other people's programs: one table, each row two programs on the same inputs.

    pip install -r benchmarks/requirements.txt
    python benchmarks/run.py
    python benchmarks/run.py --rows scoring,scored --repeats 3

Rows: whole, inference, limit, exact, hnsw, ivf, scoring, scored, precision, memory. A finished row
is stored in --out and not measured again, except with --again; a row that fails is reported and
does not stop the others. Each is measured in a process of its own, since some of these programs
change FAISS or PyTorch for the whole process. Run it on an idle machine: all rows together take
more than an hour.
"""

import argparse
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

from benchmarks.rows import BenchmarkSettings, Row, table  # noqa: E402
from lookalike.core.files import write_json  # noqa: E402
from lookalike.core.log import log, log_to  # noqa: E402
from lookalike.core.readers import read_json  # noqa: E402

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


def measured(case: str, arguments: BenchmarkSettings, again: bool) -> list[Row]:
    """Return the rows of a case.

    Args:
        case: A key of CASES.
        arguments: Settings of all rows.
        again: Whether to measure even where there are rows of an earlier run with these settings.
    """
    path = arguments.out / "rows" / f"{case}.json"
    settings = {name: str(value) for name, value in asdict(arguments).items()}
    stored = read_json(path, "this program") if path.is_file() and not again else {}
    if stored.get("asked") != settings:
        module, name = CASES[case]
        measure: Callable[[BenchmarkSettings], list[Row]]
        measure = getattr(import_module(f"benchmarks.{module}"), name)
        stored = {"asked": settings, "rows": [asdict(row) for row in measure(arguments)]}
        write_json(path, stored)
    return [Row(**row) for row in stored["rows"]]


def main() -> int:
    """Run the rows of the command line, print their table, and return the exit code."""
    parser = argparse.ArgumentParser(description="Speed beside other people's programs.")
    source = ROOT.parent / "shared" / "data" / "lfw62"
    parser.add_argument("--source-path", type=Path, default=source, help="LFW62's class folders")
    parser.add_argument(
        "--rows", default=",".join(CASES), help="names of rows, separated by commas"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pictures", type=int, help="of LFW62, at most (not for the row `whole`)")
    parser.add_argument("--gallery", type=int, default=1_000_000, help="size of the big gallery")
    parser.add_argument("--many", type=int, default=1_000_000, help="pictures of the row `memory`")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "benchmarks")
    parser.add_argument("--again", action="store_true", help="measure finished rows too")
    parser.add_argument("--only", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = [name for name in options.rows.split(",") if name not in CASES]
    if unknown:
        parser.error(f"--rows {unknown[0]}: must be among {', '.join(CASES)}")
    log_to(None)
    log.setLevel("WARNING")
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    numbers = (options.repeats, options.pictures, options.gallery, options.many)
    arguments = BenchmarkSettings(options.source_path.resolve(), out, *numbers)
    if options.only:
        measured(options.only, arguments, options.again)
        return 0
    rows, failed = [], []
    for case in options.rows.split(","):
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
