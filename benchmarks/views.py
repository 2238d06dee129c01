"""What do more views of a face add? Measured on training identities, photograph to drawing.

    python -m benchmarks.views --data $DATA/caricature

The identities and seeds of `benchmarks.transforms`, never the test, with SFace on aligned faces.
Each line is a set of scales, with or without the mirror image; the gain is over one view, seed by
seed.
"""

import numpy as np
from tabulate import tabulate

from benchmarks.transforms import parse_arguments, scores_of
from lookalike.core.log import log
from lookalike.core.settings import EmbedSettings
from lookalike.features.extractor import FeatureExtractor
from lookalike.models.embedder import embedder_of

SCALES: tuple[tuple[float, ...], ...] = (
    (1.0,),
    (0.9,),
    (0.85,),
    (0.9, 1.0),
    (0.85, 1.0),
    (1.0, 1.1),
    (0.9, 1.0, 1.1),
    (0.85, 1.0, 1.15),
    (0.85, 0.9, 1.0),
)


def main() -> None:
    """Run the benchmark."""
    arguments = parse_arguments("What do more views of a face add?", "sface")
    log.setLevel("ERROR")
    embedder = embedder_of(EmbedSettings(arguments.backbone, crop="aligned"), arguments.cache)
    rows: list[tuple[object, ...]] = []
    one_view = np.zeros(arguments.seeds)
    for scales in SCALES:
        for flip in (False, True):
            extractor = FeatureExtractor(
                embedder, arguments.data, arguments.cache, flip=flip, scales=scales
            )
            scores = np.array(scores_of(extractor, arguments.seeds))
            one_view = scores if not rows else one_view
            gain = scores - one_view
            views = " ".join(map(str, scales)), "on" if flip else "off", len(extractor.views)
            rows.append((*views, scores.mean(), scores.std(ddof=1), gain.mean(), gain.std(ddof=1)))
    heads = ["scales", "flip", "views", "mean score", "± over seeds", "gain", "± over seeds"]
    print(tabulate(rows, heads, floatfmt=("", "", "", ".1f", ".1f", "+.1f", ".1f")))


if __name__ == "__main__":
    main()
