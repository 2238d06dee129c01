"""Every experiment of the works that this toolkit grew from: small, but real, beside their figures.

    python -m benchmarks.earlier_work --lfw62 $DATA/lfw62 --cfp $DATA/cfp

Two tables. The first ranks the pictures of identities that were never trained on (LFW62, a third of
the identities are the test), the second compares pairs of faces (Celebrities in Frontal-Profile,
three folds). Networks start from random weights and learn for a minute or less on faces of 64
pixels, since no model hub is needed so; --pretrained loads published weights instead, --minutes and
--pairs give them more. Finished rows are read from their folder, so that the same command continues
after a kill.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from benchmarks.objectives import do_row, simclr_first
from benchmarks.verification import run_row
from lookalike import pipeline as runner
from lookalike.core.log import log
from lookalike.core.readers import read_json

TRIPLETS = ("--objective", "triplet", "--miner")
SEMIHARD, HARD = (*TRIPLETS, "semihard", "--margin", "0.2"), (*TRIPLETS, "hard", "--margin", "0.2")
PAIRS = ("--objective", "contrastive", "--sampler", "pairs")
IMPROVES, BY_PLOTS = "“shows improvement”", "judged by plots"


@dataclass(frozen=True)
class Training:
    """A training whose embedding ranks pictures of other identities.

    Attributes:
        backbone: Its name.
        words: Of main.py.
        said: What its authors have measured.
        simclr: Whether the backbone first learns without labels.
    """

    backbone: str
    words: tuple[str, ...]
    said: str
    simclr: bool = False


CLASSES = ("--objective", "cross_entropy", "--unfreeze", "all")
HEAD = ("--epochs", "3", "--lr", "0.001")
TRAININGS = {
    "custom CNN, triplets, margin 0.9": Training(
        "small_cnn", (*TRIPLETS, "all", "--margin", "0.9", "--unfreeze", "all"), IMPROVES
    ),
    "ResNet-18, triplets, margin 0.65": Training(
        "resnet18", (*TRIPLETS, "all", "--margin", "0.65", "--unfreeze", "all"), IMPROVES
    ),
    "custom CNN, semi-hard triplets": Training(
        "small_cnn", (*SEMIHARD, "--unfreeze", "all"), IMPROVES
    ),
    "custom CNN, hard triplets": Training("small_cnn", (*HARD, "--unfreeze", "all"), IMPROVES),
    "ResNet-18, SimCLR, linear head": Training(
        "resnet18", HEAD, "99.2 % in training, 5 % in test", simclr=True
    ),
    "ResNet-18, SimCLR, triplets": Training(
        "resnet18", (*SEMIHARD, "--unfreeze", "all"), "failed", simclr=True
    ),
    "InceptionResnetV1, classes": Training(
        "inception_resnet_v1", (*CLASSES, "--normalization", "fixed"), "96.7 % of known identities"
    ),
    "InceptionResnetV1, classes, whitened": Training(
        "inception_resnet_v1",
        (*CLASSES, "--normalization", "whitening"),
        "97.8 % of known identities",
    ),
    "NN1, triplets": Training("nn1", (*SEMIHARD, "--unfreeze", "all"), BY_PLOTS),
    "NN1, same or not": Training("nn1", (*PAIRS, "--unfreeze", "all"), BY_PLOTS),
    "NN2, triplets": Training("nn2", (*SEMIHARD, "--unfreeze", "all"), BY_PLOTS),
    "NN2, same or not": Training("nn2", (*PAIRS, "--unfreeze", "all"), BY_PLOTS),
    "Inception-v3, triplets": Training("inception_v3", (*SEMIHARD, "--unfreeze", "all"), BY_PLOTS),
    "Inception-v3, same or not": Training("inception_v3", (*PAIRS, "--unfreeze", "all"), BY_PLOTS),
    "EfficientNet-B0, head": Training("efficientnet_b0", HEAD, "438.7, closed set"),
    "ResNet-50, head": Training("resnet50", HEAD, "292.8, closed set"),
    "ViT-B/16, head": Training("vit_b16", HEAD, "443.1, closed set"),
    "ours: SFace, nothing trained": Training("sface", ("--epochs", "0", "--crop=aligned"), ""),
}
# Of networks that do not take 64 pixels.
LEAST_SIDE = {
    **{"inception_v3": "96", "inception_resnet_v1": "96", "sface": "112"},
    **{"nn1": "220", "vit_b16": "224"},
}

ONE, COSINE = ("--head", "one"), ("--head", "cosine")
# Backbone, words of `lookalike verify train`, and the accuracy that the authors have measured.
NETWORKS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "VGG-16, two outputs": ("vgg16", (), "0.782"),
    "VGG-16, two outputs, augmentation": ("vgg16", ("--augment",), "0.819"),
    "VGG-16, two outputs, SGD": ("vgg16", ("--optimizer", "sgd", "--lr", "1e-2"), "0.832"),
    "VGG-16, two outputs, linear layer": ("vgg16", ("--branch-dim", "512"), "0.727 to 0.765"),
    "VGG-16, one output": ("vgg16", ONE, "0.735; from scratch 0.50"),
    "VGG-16, cosine": ("vgg16", COSINE, "0.818 to 0.826"),
    "VGG-16, cosine, half of the layers": ("vgg16", (*COSINE, "--layers", "half"), "0.749"),
    "ResNet-50, two outputs": ("resnet50", (), ""),
    "ResNet-50, cosine": ("resnet50", COSINE, "0.825"),
    "ResNet-101, two outputs": ("resnet101", (), ""),
    "ResNet-101, cosine": ("resnet101", COSINE, "0.831"),
    "ResNeXt-50, two outputs": ("resnext50_32x4d", (), ""),
    "ResNeXt-50, cosine": ("resnext50_32x4d", COSINE, "0.834"),
    "ResNeXt-101, two outputs": ("resnext101_32x8d", (), ""),
    "ResNeXt-101, cosine": ("resnext101_32x8d", COSINE, ""),
}


def weights_of(backbone: str, arguments: argparse.Namespace) -> list[str]:
    """Return the words that name a backbone's weights, random ones unless others are asked for."""
    if backbone == "inception_resnet_v1" and arguments.facenet:
        return ["--weights", str(arguments.facenet)]
    if backbone == "sface":
        return []
    own = backbone in ("small_cnn", "nn1", "nn2", "inception_resnet_v1")
    return [] if arguments.pretrained and not own else ["--weights", "none"]


def lay_out(arguments: argparse.Namespace) -> None:
    """Lay LFW62 out so that a third of its identities are the test."""
    layout = ["--source", "folder", "--source-path", str(arguments.lfw62), "--protocol", "disjoint"]
    folders = [f"--data={arguments.out / 'data'}", f"--run={arguments.out / 'layout'}"]
    if runner.main(["--stage", "extract", *layout, *folders]):
        raise SystemExit(f"--lfw62 {arguments.lfw62}: cannot be laid out, see above")
    log.handlers.clear()


def do_training(name: str, row: Training, arguments: argparse.Namespace) -> list[str]:
    """Do a row of the first table and return its cells."""
    folder = arguments.out / name.replace(" ", "_").replace(",", "").replace("/", "-")
    side = LEAST_SIDE.get(row.backbone, "64")
    shared = [f"--data={arguments.out / 'data'}", f"--cache={arguments.cache}", "--crop=face"]
    shared.append(f"--backbone={row.backbone}")
    weights = weights_of(row.backbone, arguments)
    before: list[list[str]] = []
    if row.simclr:
        before, weights = simclr_first(folder, [*shared, *weights], arguments.simclr_epochs, side)
    limit = ["--epochs=30", "--patience=30", f"--max-minutes={arguments.minutes}"]
    words = [*shared, f"--image-size={side}", *limit, "--batch-size=64", *row.words, *weights]
    done = do_row(folder, words, before)
    if "failed" in done:
        return [name, "", "", row.said, done["failed"]]
    made = read_json(folder / "stages.json", "main.py")["train"]["made"]
    note = "not better than untrained, which is scored" if "not used" in made else ""
    return [name, f"{done['test']:.1f}", f"{done['minutes']:.1f}", row.said, note]


def do_network(name: str, arguments: argparse.Namespace) -> list[str]:
    """Do a row of the second table and return its cells."""
    backbone, changed, said = NETWORKS[name]
    words = ["--data", str(arguments.cfp), "--kind", "FF", "--backbone", backbone, "--crop", "face"]
    words += ["--folds", "1", "2", "3", "--image-size", "64", "--batch-size", "16", "--layers"]
    words += ["all", "--lr", "1e-4", "--epochs", "1", "--epoch-pairs", str(arguments.pairs)]
    words += ["--cache", str(arguments.cache), *weights_of(backbone, arguments), *changed]
    number = list(NETWORKS).index(name)
    try:
        _, *accuracies, mean, deviation, auc, _ = run_row(name, number, words, arguments.out)
    except SystemExit as error:
        return [name, *[""] * 6, f"{said} ({error})"]
    return [name, *(f"{value:.3f}" for value in (*accuracies, mean, deviation, auc)), said]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lfw62", type=Path, help="class folders; without: not the first table")
    parser.add_argument("--cfp", type=Path, help="without: not the second table")
    parser.add_argument("--pretrained", action="store_true", help="load published weights")
    parser.add_argument("--facenet", type=Path, help="InceptionResnetV1's weights of VGGFace2")
    parser.add_argument("--minutes", type=float, default=0.7, help="of a training")
    parser.add_argument("--simclr-epochs", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=160, help="that a fold is trained on")
    parser.add_argument("--out", type=Path, default=Path("runs/earlier_work"))
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    arguments = parser.parse_args()
    if arguments.lfw62:
        lay_out(arguments)
        bar = tqdm(TRAININGS.items(), "trainings")
        table = [do_training(name, row, arguments) for name, row in bar]
        heads = ["", "score, unseen identities", "minutes", "its authors", ""]
        print(tabulate(table, heads, tablefmt="github", disable_numparse=True))
    if arguments.cfp:
        table = [do_network(name, arguments) for name in tqdm(NETWORKS, "networks")]
        heads = ["", "split 1", "split 2", "split 3", "mean", "sd", "AUC", "its authors"]
        print(tabulate(table, heads, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
