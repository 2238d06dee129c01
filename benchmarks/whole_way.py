"""The pipeline beside the baseline report's recipe, and embedding beside open-metric-learning's.

Rows of run.py; all programs run in processes of their own.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.embedding import BACKBONE, list_pictures
from benchmarks.rows import BenchmarkSettings, Row, in_turns
from lookalike.evaluation.scoring import Labels, read_labels, score
from lookalike.models.backbones import TIMM_NAMES
from lookalike.models.embedder import load_embedder

ROOT = Path(__file__).parent.parent
WORKERS = (0, 1, 2)
PROBE = 320  # pictures by which a program's number of workers is chosen
OML = "open-metric-learning"


def call(*words: object, python: Path | str = sys.executable) -> str:
    """Run a Python program in the project's folder and return what it printed.

    Raises:
        RuntimeError: It failed; with the end of its error output.
    """
    command = [str(python), *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return done.stdout


def timed(*words: object) -> float:
    """Return the seconds of a program, timed from outside."""
    start = time.perf_counter()
    call(*words)
    return time.perf_counter() - start


def best_workers(seconds: Callable[[int], float]) -> int:
    """Return the number of DataLoader workers that takes the fewest seconds."""
    return min(WORKERS, key=seconds)


# ---- the whole pipeline -------------------------------------------------------------------------


def lay_out(arguments: BenchmarkSettings) -> Path:
    """Lay LFW62 out as a competition, by the baseline report's protocol, once."""
    data = arguments.out / "lfw62"
    if not (data / "labels.json").is_file():
        extract = ("main.py", "--stage", "extract", "--source", "folder", "--protocol", "report")
        folders = ("--source-path", arguments.source, "--data", data)
        call(*extract, *folders, "--run", arguments.out / "extract")
    return data


def whole_way(arguments: BenchmarkSettings) -> list[Row]:
    """Compare `main.py --stage all` with the recipe."""
    data = lay_out(arguments)
    ours, plain = arguments.out / "ours", arguments.out / "plain"
    recipe = ("-m", "benchmarks.plain_recipe", "--data", data, "--out", plain)

    def fresh(*folders: Path) -> None:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)

    def our_way() -> float:
        fresh(ours)
        words = ("--data", data, "--run", ours / "run", "--cache", ours / "cache", "--epochs", 3)
        return timed("main.py", "--stage", "all", "--time-limit", "0", *words)

    def plain_way() -> float:
        fresh(plain)
        return timed(*recipe, "--workers", workers)

    fresh(plain)
    workers = best_workers(lambda n: timed(*recipe, "--workers", n, "--limit", PROBE))
    figures = in_turns((our_way, plain_way), arguments.repeats, warm=0)
    labels = read_labels(data / "labels.json")
    scores = [_score(path / "submission.json", labels) for path in (ours / "run", plain)]
    remark = (
        f"score {scores[0]} and {scores[1]}; from outside, from empty caches, no warm-up; "
        f"the recipe with {workers} workers, the best of {WORKERS}"
    )
    what = "`--stage all` on LFW62, linear probe, 3 epochs"
    other = f"the baseline report's recipe written plainly, PyTorch {torch.__version__}"
    return [Row(what, "`main.py --stage all`", other, "s", 5, figures[0], figures[1], remark)]


def _score(path: Path, labels: Labels) -> str:
    block = score(path, labels)
    low, high = block["ci95"]["score"]
    return f"{block['score']:.1f} ({low:.1f} to {high:.1f})"


# ---- embedding ----------------------------------------------------------------------------------


def oml_python(arguments: BenchmarkSettings) -> Path:
    """Return the Python of an environment with open-metric-learning, created where there is none.

    It requires numpy < 2, which this project does not.
    """
    folder = arguments.out / "oml-venv"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not (folder / "installed").is_file():
        venv.create(folder, clear=True, with_pip=True)
        # It imports omegaconf without requiring it. The same PyTorch as ours.
        torch_too = f"torch=={version('torch').partition('+')[0]}"
        call("-m", "pip", "install", "-q", OML, "omegaconf", "timm", torch_too, python=python)
        (folder / "installed").touch()
    return python


def inference(arguments: BenchmarkSettings) -> list[Row]:
    """Compare `embed` with open-metric-learning's `inference`."""
    python, pictures = oml_python(arguments), list_pictures(arguments)
    listed, weights = arguments.out / "pictures.csv", arguments.out / "lite0.pt"
    pictures.to_csv(listed, index=False)
    embedder = load_embedder(BACKBONE, cache=arguments.out / "cache")
    names = ("image_size", "interpolation", "mean", "std")
    preprocessing = {name: getattr(embedder.preprocessing, name) for name in names}
    stored = {"timm": TIMM_NAMES[BACKBONE], "state": embedder.backbone.state_dict()}
    torch.save(stored | {"preprocessing": preprocessing}, weights)
    what = ("--pictures", listed, "--root", arguments.source)

    def theirs(workers: int, *words: object) -> float:
        program = ROOT / "benchmarks" / "oml_inference.py"
        options = (*what, "--weights", weights, "--workers", workers, *words)
        found = json.loads(call(program, *options, python=python).splitlines()[-1])
        return float(found["pictures"] / found["seconds"])

    compiling = []

    def ours() -> float:
        with tempfile.TemporaryDirectory(dir=arguments.out) as empty:
            found = json.loads(call("-m", "benchmarks.embedding", *what, "--cache", empty))
        compiling.append(found["compiling"])
        return float(len(pictures) / found["seconds"])

    workers = best_workers(lambda n: -theirs(n, "--limit", PROBE))
    figures = in_turns((ours, lambda: theirs(workers)), arguments.repeats, warm=0)
    show = "import importlib.metadata as m; print(m.version('{}'), m.version('torch'))"
    oml, torch_of_oml = call("-c", show.format(OML), python=python).split()
    remark = (
        f"from inside each process, without imports and loading weights; ours from an empty cache, "
        f"with {max(compiling):.1f} s of compiling by OpenVINO {version('openvino')}; theirs in "
        f"batches of 32 with {workers} workers, the best of {WORKERS}, PyTorch {torch_of_oml}"
    )
    row = f"pictures/s, {len(pictures)} of LFW62, {BACKBONE}, decoding included"
    other = f"{OML} {oml}, `inference`"
    return [Row(row, "`embed`", other, "pictures/s", 2.5, figures[0], figures[1], remark)]
