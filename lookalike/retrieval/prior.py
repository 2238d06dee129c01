"""The prior recipe: how to embed and rank where nobody is labeled, decided by looking at pictures.

    prior = look_at(run)
    prior.sentence      # 'faces in 98 % of the queries and 97 % of the gallery: sface, aligned'
    prior.ladder        # settings of the embedding, each adding to the one before

A face backbone on aligned faces is worth more than any other where there are faces; everywhere else
no backbone is the best on all data, and all that the machine carries are better than each of them.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from threadpoolctl import threadpool_limits

from lookalike.core.runs import Run
from lookalike.core.settings import EmbedSettings, RetrieveSettings
from lookalike.data.appearance import sample_rows
from lookalike.data.catalogue import gallery_of, load_catalogue, queries_of, readable
from lookalike.faces.dataset import detect
from lookalike.faces.detection import MISSED, UNSURE, load_detector
from lookalike.faces.geometry import crop_kind
from lookalike.features.embedding import embed
from lookalike.features.extractor import untrained_extractor
from lookalike.retrieval.embeddings import Embeddings, center
from lookalike.retrieval.postprocess import above_strangers, have_neighbors

SAMPLE = 100  # pictures of a side that are searched for faces
MOST = 0.5  # share of pictures with a face from which on faces are what it is about
DOMAIN_SAMPLE = 600  # pictures of a side that a classifier of domains is trained on
FAR_APART = 0.75  # area under the ROC curve from which on query and gallery are two domains
FOLDS = 5
# Each step adds to the one before, and has the points that it may be expected to gain, from other
# data. The first is a single pass of one backbone.
Steps = tuple[tuple[float, dict[str, Any]], ...]
FACES: Steps = (
    (0.0, {"backbone": "sface", "crop": "aligned", "flip": "on"}),
    (15.0, {"backbone": "sface+0.5*dlib"}),
    (5.0, {"scales": (0.85, 1.0)}),
)
WHOLE_PICTURES: Steps = (
    (0.0, {"backbone": "efficientnet_lite0", "pooling": "avg+gem"}),
    (80.0, {"backbone": "efficientnet_lite0+efficientnet_lite1+efficientnet_lite2+mobilenet_v2"}),
    (15.0, {"resolutions": (1.0, 1.4)}),
    (5.0, {"flip": "on"}),
    (5.0, {"resolutions": (1.0, 1.4, 2.0)}),
)


@dataclass(frozen=True)
class Prior:
    """What is known of a competition before anybody is labeled.

    Attributes:
        ladder: Settings of the embedding; each takes more time than the one before, and is better.
        gains: Points that each of them may be expected to gain over the one before.
        faces: The lower share of pictures with a sure face, of the queries and of the gallery.
        sentence: Why these.
    """

    ladder: tuple[EmbedSettings, ...]
    gains: tuple[float, ...]
    faces: float
    sentence: str


def look_at(run: Run, named: frozenset[str]) -> Prior:
    """Find the prior recipe's embedding for a run's test.

    Args:
        run: Its catalogue, pictures and settings are read.
        named: Settings that the user has named, which stay.

    Raises:
        UserError: A picture is gone or has changed.
    """
    settings = run.settings.embed
    test = load_catalogue(run.path("test.csv"))
    test = test[readable(test)]
    shares, found = [0.0], f"crops by {settings.detector}"
    if settings.detector_file is None:
        shares = [_share_of_faces(run, rows) for rows in (queries_of(test), gallery_of(test))]
        found = "faces in {:.0%} of the queries and {:.0%} of the gallery".format(*shares)
    if "backbone" in named:
        return Prior((settings,), (0.0,), min(shares), f"{found}; {settings.backbone}, as named")
    steps, why = FACES, "aligned faces by sface, mirrored too, and by dlib, as time allows"
    if min(shares) < MOST:
        steps = WHOLE_PICTURES
        why = "whole pictures by all backbones that need no hub, together, as time allows"
    ladder: list[EmbedSettings] = []
    gains: list[float] = []
    for gain, change in steps:
        settings = replace(settings, **{k: v for k, v in change.items() if k not in named})
        if settings not in ladder:
            ladder.append(settings)
            gains.append(gain)
    return Prior(tuple(ladder), tuple(gains), min(shares), f"{found}: {why}")


def _share_of_faces(run: Run, rows: pd.DataFrame) -> float:
    """Return the share of a sample of pictures in which a face is found with confidence."""
    sample = sample_rows(rows, SAMPLE)
    if sample.empty:
        return 0.0
    detector = load_detector(run.settings.embed.detector, run.cache)
    found = detect(sample, run.data, run.cache, detector)
    kinds = [found[content].found for content in sample.content]
    return float(np.mean([kind not in (MISSED, UNSURE) for kind in kinds]))


def prior_steps(
    run: Run, embed_settings: EmbedSettings, named: frozenset[str]
) -> tuple[RetrieveSettings, str]:
    """Decide the steps of the ranking from the test's unlabeled pictures.

    Args:
        run: Its catalogue, pictures and settings are read.
        embed_settings: How pictures are embedded.
        named: Settings that the user has named, which stay.

    Returns:
        The steps, and a sentence that says why these.
    """
    steps, reasons = run.settings.retrieve, []
    test = load_catalogue(run.path("test.csv"))
    test = test[readable(test)]
    extractor = untrained_extractor(run, embed_settings)
    sides = [embed(extractor, rows) for rows in (queries_of(test), gallery_of(test))]
    difference = difference_of_domains(*sides)
    if not {"center", "no_transductive"} & named:
        steps = replace(steps, center=difference >= FAR_APART)
        apart = "two domains, each centered" if steps.center else "one domain"
        reasons.append(f"query and gallery told apart at an AUC of {difference:.2f}: {apart}")
    queries = sides[0]
    if steps.center:
        none = queries[:0]
        sides_of = Embeddings(queries, sides[1], none, none, widths=extractor.widths)
        queries = center(sides_of).queries
    # Strangers' cosines by a backbone for faces are spread normally. By any other they are not:
    # kinds of things are alike, and would be summed for one identity.
    free = not {"query_neighbors", "no_transductive"} & named
    if free and sees_faces(embed_settings) and len(queries) > 2:
        share = float(have_neighbors(queries).mean())
        least = round(min(1.0, max(0.01, above_strangers(queries))), 2)
        steps = replace(steps, query_neighbors=least if share >= MOST else None)
        which = f"those above {least} summed" if share >= MOST else "left alone"
        reasons.append(f"{share:.0%} of the queries have another one like them: {which}")
    return steps, "; ".join(reasons)


def difference_of_domains(queries: np.ndarray, gallery: np.ndarray) -> float:
    """Return how well a linear classifier tells queries from gallery, cross-validated.

    Args:
        queries: (Q, D) embeddings.
        gallery: (G, D) embeddings.

    Returns:
        The area under the ROC curve; 0.5 where it cannot, or a side has fewer than five pictures.
    """
    rng = np.random.default_rng(0)
    sides = [rows[rng.permutation(len(rows))[:DOMAIN_SAMPLE]] for rows in (queries, gallery)]
    if min(map(len, sides)) < FOLDS:
        return 0.5
    kinds = np.repeat([1, 0], [len(side) for side in sides])
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    with threadpool_limits(1):
        judged = cross_val_predict(
            LogisticRegression(max_iter=200),
            np.concatenate(sides),
            kinds,
            cv=folds,
            method="predict_proba",
        )
    # Below 0.5 where both sides hold the same pictures: each is judged by its other side.
    return max(0.5, float(roc_auc_score(kinds, judged[:, 1])))


def sees_faces(settings: EmbedSettings) -> bool:
    """Return whether the embedding is of crops of faces."""
    return crop_kind(settings) != "none" and settings.detector_file is None
