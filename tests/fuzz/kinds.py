"""The kinds of inputs: how a valid one is made and mutated, and what must hold of every one.

Each is a class with a `name`, the `share` of all inputs that it gets, a constructor that takes an
empty folder, and a method `one`, which makes one input, feeds it to the toolkit and returns `read`
or `refused`. A refusal is a UserError, or exit code 1 or 2. Any other exception counts as a
traceback, and SilentChange as what its name says.
"""

import contextlib
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save as save_tensors

from lookalike import pipeline
from lookalike.core.cache import FeatureCache, keys_of
from lookalike.core.config import load_settings
from lookalike.core.errors import UserError
from lookalike.core.log import exit_code, log
from lookalike.core.options import parse_settings
from lookalike.core.settings import Settings
from lookalike.core.weights import load_state
from lookalike.data.archives import unpack
from lookalike.data.images import check_picture, read_picture, read_pixels
from lookalike.evaluation.evaluate import main as evaluate
from tests.conftest import FAST, draw, draw_competition
from tests.fuzz.mutations import ODD_VALUES, mutate, mutated_json


class SilentChange(AssertionError):
    """Another result than that of the valid input, without a word."""


class Kind:
    """What all kinds have in common."""

    name: ClassVar[str]
    share: ClassVar[float]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.make()

    def make(self) -> None:
        """Make the valid input."""

    def one(self, random: Random) -> str:
        """Make one input and feed it to the toolkit."""
        raise NotImplementedError


def outcome(work: Callable[[], Any]) -> str:
    """Return `read`, or `refused` for a UserError."""
    try:
        work()
    except UserError:
        return "refused"
    return "read"


def output_of(main: Callable[[list[str]], int], words: list[str]) -> tuple[int, str]:
    """Return the exit code and the standard output of a command."""
    code, shown, _ = both_outputs_of(main, words)
    return code, shown


def both_outputs_of(main: Callable[[list[str]], int], words: list[str]) -> tuple[int, str, str]:
    """Return the exit code of a command, its standard output, and its log."""
    shown, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(said):
        try:
            code = main(words)
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            for handler in list(log.handlers):
                handler.close()
            log.handlers.clear()
    return code, shown.getvalue(), said.getvalue()


# ---- files of an evaluation ---------------------------------------------------------------------

GALLERY = [f"g{i}.jpg" for i in range(6)]
LABELS = {
    "query": {"q1.jpg": "ann", "q2.jpg": "bob", "q3.jpg": "ann"},
    "gallery": {name: "ann" if i % 2 else "bob" for i, name in enumerate(GALLERY)},
}
RANKED = {"q1.jpg": GALLERY, "q2.jpg": GALLERY[::-1], "q3.jpg": GALLERY[2:] + GALLERY[:2]}
FORMS: dict[str, Any] = {
    "mapping.json": RANKED,
    "wrapped.json": {"groupname": "us", "images": RANKED},
    "samples.json": [{"filename": q, "samples": n} for q, n in RANKED.items()],
    "list.json": [{"filename": q, "gallery_images": n} for q, n in RANKED.items()],
    "neighbors.json": [{"query": q, "neighbors": n} for q, n in RANKED.items()],
}


class Submissions(Kind):
    """Submissions in all forms, scored by evaluate.py."""

    name, share = "submissions", 0.30

    def make(self) -> None:
        """Write a submission in each form, and the labels."""
        files = {name: json.dumps(value) for name, value in FORMS.items()}
        rows = "".join(f"{query},{' '.join(names)}\n" for query, names in RANKED.items())
        self.files = {n: t.encode() for n, t in files.items()} | {
            "t.csv": b"id,images\n" + rows.encode()
        }
        self.labels = self.folder / "labels.json"
        self.labels.write_text(json.dumps(LABELS))
        self.score = self.evaluate("mapping.json", self.files["mapping.json"])[1]

    def evaluate(self, name: str, content: bytes) -> tuple[int, str]:
        """Score a file with this content."""
        path = self.folder / name
        path.write_bytes(content)
        return output_of(evaluate, [str(path), "--labels", str(self.labels), "--json"])

    def one(self, random: Random) -> str:
        """Mutate a submission; one with the content of the valid one must have its score."""
        name = random.choice(list(self.files))
        change = mutate if name.endswith(".csv") else mutated_json
        content = change(self.files[name], random)
        code, shown = self.evaluate(name, content)
        if code:
            return "refused"
        measures = json.loads(shown)
        if not 0 <= measures["score"] <= 1000:
            raise SilentChange(f"score {measures['score']}")
        if name.endswith(".json") and json.loads(content) == FORMS[name] and shown != self.score:
            raise SilentChange("another score of the same submission")
        return "read"


class Labels(Submissions):
    """Labels, read by evaluate.py."""

    name, share = "labels", 0.10

    def one(self, random: Random) -> str:
        """Mutate the labels; those with the content of the valid ones must give its score."""
        content = mutated_json(json.dumps(LABELS).encode(), random)
        self.labels.write_bytes(content)
        code, shown = self.evaluate("mapping.json", self.files["mapping.json"])
        if code:
            return "refused"
        if json.loads(content.decode("utf-8-sig")) == LABELS and shown != self.score:
            raise SilentChange("another score of the same labels")
        return "read"


# ---- archives -----------------------------------------------------------------------------------

MEMBERS = {
    "set/test/query/a.jpg": b"query" * 20,
    "set/test/gallery/é b.jpg": b"gallery" * 20,
    "set/labels.json": b"{}",
}


class Archives(Kind):
    """Zip and tar archives, unpacked."""

    name, share = "archives", 0.08

    def make(self) -> None:
        """Write a zip and four tars of the same members."""
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in MEMBERS.items():
                archive.writestr(name, content)
        self.archives = [stream.getvalue()] * 3
        for mode in ("w", "w:gz", "w:xz"):
            stream = io.BytesIO()
            with tarfile.open(fileobj=stream, mode=mode) as tar:
                for name, content in MEMBERS.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
            self.archives.append(stream.getvalue())

    def one(self, random: Random) -> str:
        """Mutate an archive; nothing may lie outside of the target, and nothing after a refusal."""
        whole = random.choice(self.archives)
        place, target = self.folder / "place", self.folder / "place" / "out"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        archive = self.folder / "archive"
        archive.write_bytes(mutate(whole, random))
        done = outcome(lambda: unpack(archive, target))
        left = {path.name for path in place.iterdir()}
        if left != ({"out"} if done == "read" else set()):
            raise SilentChange(f"{done}, and in the folder: {sorted(left)}")
        if done == "read" and whole.startswith(b"PK"):
            for name, content in MEMBERS.items():
                if (target / name).is_file() and (target / name).read_bytes() != content:
                    raise SilentChange(f"{name} has another content")
        return done


# ---- pictures -----------------------------------------------------------------------------------


class Pictures(Kind):
    """Picture files of six formats, checked and decoded."""

    name, share = "pictures", 0.14

    def make(self) -> None:
        """Write a picture in each format."""
        draw(self.folder / "picture.png", identity=1, picture=1, side=40)
        image = Image.open(self.folder / "picture.png").convert("RGB")
        exif = Image.Exif()
        exif[0x0112], exif[0x010F] = 6, "maker"
        self.files = []
        for kind, options in (
            ("JPEG", {"exif": exif}),
            ("JPEG", {"progressive": True}),
            ("PNG", {}),
            ("WEBP", {}),
            ("GIF", {}),
            ("BMP", {}),
            ("TIFF", {"compression": "tiff_lzw"}),
        ):
            stream = io.BytesIO()
            image.save(stream, kind, **options)
            self.files.append(stream.getvalue())

    def one(self, random: Random) -> str:
        """Mutate a picture; what the check calls readable is decoded, by both ways alike."""
        path = self.folder / "mutated"
        path.write_bytes(mutate(random.choice(self.files), random))
        checked = check_picture(path)
        if checked.problem.startswith("unreadable"):
            return "refused"
        raw = path.read_bytes()
        image, pixels = read_picture(raw, 224), read_pixels(raw, 224)
        if image.size != pixels.shape[1::-1] or pixels.shape[2] != 3:
            raise SilentChange(f"{image.size} pixels, and {pixels.shape}")
        if not np.array_equal(np.asarray(image), pixels):
            raise SilentChange("two ways to decode, two results")
        return "read"


# ---- the cache and the run folder ---------------------------------------------------------------


class Cache(Kind):
    """Shards of the embedding cache."""

    name, share = "cache", 0.10

    def make(self) -> None:
        """Write two shards."""
        self.keys = keys_of(f"{i * 0x9E3779B97F4A7C15 % 2**64:016x}{i:016x}" for i in range(40))
        self.rows = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
        cache = self.open()
        for part in (slice(0, 25), slice(25, 40)):
            cache.add(self.keys[part], self.rows[part])
            cache.flush()
        self.files = {path: path.read_bytes() for path in cache.folder.iterdir() if path.is_file()}

    def open(self) -> FeatureCache:
        """Open the cache."""
        return FeatureCache(self.folder / "cache", "model", {"weights": "w"}, dim=8)

    def one(self, random: Random) -> str:
        """Mutate a file; a row is the valid one, or missing."""
        path = random.choice(list(self.files))
        path.write_bytes(mutate(self.files[path], random))
        try:
            rows, missing = self.open().rows(self.keys)
        finally:
            path.write_bytes(self.files[path])
        good = np.setdiff1d(np.arange(40), missing)
        if not np.array_equal(rows[good], self.rows[good]):
            raise SilentChange(f"{path.name}: another row")
        return "refused" if len(missing) else "read"


FORECAST_LEFT_OUT = "the forecast is not of this ranking, or of other files: left out"


class RunFolders(Kind):
    """Files of a finished run folder, and the stages that read them."""

    name, share = "run folder", 0.02
    STAGES = ("retrieve", "evaluate", "report", "all", "index")
    MADE: ClassVar = {  # what must be the same bytes after a stage
        "all": ("submission.json", "metrics.json"),
        "retrieve": ("submission.json",),
        "evaluate": ("metrics.json",),
    }

    def make(self) -> None:
        """Run the pipeline on a tiny competition."""
        self.data, self.run = self.folder / "tiny", self.folder / "run"
        draw_competition(self.data)
        self.words = ["--data", str(self.data), "--run", str(self.run)]
        self.words += ["--cache", str(self.folder / "cache")]
        code, _ = output_of(pipeline.main, [*self.words, *FAST, "--stage", "all"])
        assert code == 0
        skip = {"log.txt", ".lock", "report.html", "training.png"}
        self.files = [p for p in sorted(self.run.iterdir()) if p.is_file() and p.name not in skip]
        self.backup = self.folder / "backup"
        shutil.copytree(self.run, self.backup)

    def one(self, random: Random) -> str:
        """Mutate a file and run a stage; the submission and its score stay, or the stage stops."""
        shutil.rmtree(self.run)
        shutil.copytree(self.backup, self.run)
        path = random.choice(self.files)
        change = mutated_json if path.suffix == ".json" else mutate
        path.write_bytes(change(path.read_bytes(), random))
        stage = random.choice(self.STAGES)
        settings = FAST if stage == "all" else ()
        words = [*self.words, *settings, "--stage", stage, "--force"]
        code, _, said = both_outputs_of(pipeline.main, words)
        if code:
            return "refused"
        for name in self.MADE.get(stage, ()):
            if name == "metrics.json" and FORECAST_LEFT_OUT in said:
                continue
            if (self.run / name).read_bytes() != (self.backup / name).read_bytes():
                raise SilentChange(f"{path.name} mutated, --stage {stage}: another {name}")
        return "read"


# ---- settings -----------------------------------------------------------------------------------


class Configs(Kind):
    """Config files in JSON and TOML."""

    name, share = "config files", 0.10

    def make(self) -> None:
        """Write a file with every setting, and a small one in TOML."""
        table = {name: value for name, value in Settings().flat().items() if name != "config"}
        self.files = {
            "all.json": json.dumps(table).encode(),
            "some.toml": b'seed = 1\nbackbone = "sface"\nscales = [1.0, 0.9]\ncenter = true\n',
        }

    def one(self, random: Random) -> str:
        """Mutate a config file."""
        name = random.choice(list(self.files))
        change = mutated_json if name.endswith(".json") else mutate
        (self.folder / name).write_bytes(change(self.files[name], random))
        return outcome(lambda: load_settings(self.folder / name))


class Options(Kind):
    """Command lines of main.py."""

    name, share = "options", 0.02

    def one(self, random: Random) -> str:
        """Give random options random values."""
        words = []
        for name in random.sample(
            sorted(Settings().flat().keys() - {"config"}), k=random.choice((1, 1, 2))
        ):
            words.append("--" + name.replace("_", "-"))
            words += [str(random.choice(ODD_VALUES))] * random.choice((0, 1, 1, 2))
        code, _ = output_of(lambda line: exit_code(lambda: _parse(line)), words)
        return "refused" if code else "read"


def _parse(words: list[str]) -> None:
    """Parse a command line of main.py."""
    parse_settings(words)


# ---- weights ------------------------------------------------------------------------------------


class Weights(Kind):
    """Files with weights: safetensors and PyTorch's own."""

    name, share = "weights", 0.06

    def make(self) -> None:
        """Write a small model in both formats."""
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        stream = io.BytesIO()
        torch.save(model.state_dict(), stream)
        self.files = {
            "w.safetensors": save_tensors(model.state_dict(), {"about": "{}"}),
            "w.pth": stream.getvalue(),
        }

    def one(self, random: Random) -> str:
        """Mutate a file with weights; what is read are named tensors."""
        name = random.choice(list(self.files))
        (self.folder / name).write_bytes(mutate(self.files[name], random))

        def work() -> None:
            state = load_state(self.folder / name)
            if not all(isinstance(value, torch.Tensor) for value in state.values()):
                raise SilentChange("what is no tensor")

        return outcome(work)
