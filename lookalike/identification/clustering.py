"""`lookalike identify cluster`: put the test's pictures of one identity into one cluster.

    clusters = cut(tree(embeddings), height)      # the number of the cluster of each picture

The pictures are clustered by average linkage of their cosines, after those steps of the run that
map each picture by itself. How far apart two clusters may be is what divides labeled pictures best,
by the adjusted Rand index (Hubert and Arabie, 1985).
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.metrics import adjusted_rand_score
from tabulate import tabulate

from lookalike.core.checks import check_bounds
from lookalike.core.errors import UserError
from lookalike.core.files import write_table
from lookalike.core.log import log, report_each
from lookalike.core.readers import read_outside_table
from lookalike.core.runs import Run, open_run
from lookalike.core.settings import RetrieveSettings
from lookalike.data.catalogue import bare_names, load_catalogue, queries_of, readable
from lookalike.data.splits import Pictures, unseen_split
from lookalike.evaluation.samples import usual_or_only
from lookalike.evaluation.scoring import read_labels
from lookalike.identification.naming import rows_by_path
from lookalike.identification.references import READS, labeled_pictures
from lookalike.identification.settings import ClusterCommand
from lookalike.retrieval.embeddings import Embeddings
from lookalike.retrieval.labeled_tasks import EmbeddedRows
from lookalike.retrieval.postprocess import transform

MOST = 20_000  # pictures; their distances take 8 bytes for each pair
HEIGHTS = 100  # heights that are tried
USUAL = ("cluster", "cluster_id", "identity", "label")  # names of the column of clusters


def cluster_test(command: ClusterCommand) -> None:
    """Write the cluster of each picture of a run's test, and its score where labels are known.

    Raises:
        UserError: The run, the sample or the labels cannot be used; or there are too many pictures,
            or too few labeled ones to find the height by.
    """
    check_bounds(command)
    run = open_run(command.run, reads=(*READS, "test.csv"))
    test = queries_of(load_catalogue(run.path("test.csv")))
    good = readable(test)
    report_each("pictures cannot be read: each is a cluster of its own", test.path[~good])
    if good.sum() > MOST:
        raise UserError(f"{run.folder}: {good.sum()} pictures; at most {MOST} can be clustered")
    numbers = np.arange(1, len(test) + 1) + len(test)  # those of pictures that cannot be read
    numbers[good.to_numpy()] = _cluster_readable(run, test[good], command.height)
    names = bare_names(test.path).tolist()
    clusters = dict(zip(names, map(str, numbers.tolist()), strict=True))
    path = run.path("clusters.csv")
    write_table(path, _table(command, clusters))
    log.info("%d pictures in %d clusters -> %s", len(names), len(set(clusters.values())), path)
    if command.labels is not None:
        truth = read_labels(command.labels).query
        both = [(truth[name], clusters[name]) for name in names if name in truth]
        index = adjusted_rand_score(*zip(*both, strict=True)) if both else float("nan")
        print(tabulate([("adjusted Rand index", f"{index:.4f}"), ("pictures", len(both))]))


def _cluster_readable(run: Run, test: pd.DataFrame, height: float | None) -> np.ndarray:
    """Return the clusters of pictures that can be read, numbered from 1."""
    pictures, settings = labeled_pictures(run), run.settings.retrieve
    embedded = rows_by_path(run, pictures, test)
    height = _labeled_height(run, embedded, settings) if height is None else height
    labeled = dict(zip(pictures.path, pictures.identity, strict=True))
    return cut(tree(map_rows(embedded, list(test.path), labeled, settings)), height)


def _table(command: ClusterCommand, clusters: Mapping[str, str]) -> pd.DataFrame:
    """Return the rows to write: the sample's, or a column of pictures and one of clusters."""
    if command.sample_submission is None:
        return pd.DataFrame({"image": list(clusters), "cluster": list(clusters.values())})
    table = read_outside_table(command.sample_submission)
    stems = {PurePosixPath(name).stem: number for name, number in clusters.items()}
    cluster_of = {**stems, **clusters}
    ids = [column for column in table.columns if table[column].isin(cluster_of.keys()).all()]
    target = usual_or_only({c: c for c in table.columns if c not in ids[:1]}, USUAL)
    if len(ids) != 1 or target is None:
        raise UserError(
            f"{command.sample_submission}: one column has to name the test's pictures, and one, "
            f"called {', '.join(USUAL)} or the only other, takes the cluster; it has "
            f"{', '.join(map(str, table.columns))}"
        )
    return table.assign(**{target: table[ids[0]].map(cluster_of)})


def _labeled_height(run: Run, embedded: EmbeddedRows, settings: RetrieveSettings) -> float:
    """Return the height that divides labeled pictures best that nothing was trained on."""
    split = unseen_split(run)
    unseen = split.labeled
    if run.settings.train.changes_embedding:
        unseen = dict(split.validation.query) | dict(split.validation.gallery)
    unseen = {path: name for path, name in unseen.items() if path in embedded.rows}
    identities = np.random.default_rng([run.seed, 7]).permutation(sorted(set(unseen.values())))
    found = []
    for half in (set(identities[::2].tolist()), set(identities[1::2].tolist())):
        inside = {path: name for path, name in unseen.items() if name in half}
        outside = {path: name for path, name in unseen.items() if name not in half}
        if len(set(inside.values())) > 1:
            mapped = map_rows(embedded, list(inside), outside, settings)
            found.append(best_height(mapped, list(inside.values())))
    if not found:
        raise UserError(f"{run.folder}: too few labeled identities to cluster by: name --height")
    height, index = (float(np.mean(values)) for values in zip(*found, strict=True))
    log.info("height %.3f: adjusted Rand index %.3f on labeled pictures", height, index)
    return height


def map_rows(
    embedded: EmbeddedRows, paths: Sequence[str], labeled: Pictures, settings: RetrieveSettings
) -> np.ndarray:
    """Return (N, D) embeddings of pictures after the steps that map each picture by itself.

    Args:
        embedded: Their embeddings.
        paths: Of the N pictures.
        labeled: {path: identity} of those that a projection learns from; may be empty.
        settings: The steps.
    """
    own, known = embedded.stack(paths), embedded.stack(labeled)
    names = np.array(list(labeled.values()), str)
    task = Embeddings(own, own, known, known, (names, names), embedded.widths)
    return transform(task, settings).queries


def tree(rows: np.ndarray) -> np.ndarray:
    """Return the tree of average linkage of (N, D) unit rows, as SciPy holds it."""
    if len(rows) < 2:
        return np.zeros((0, 4))
    distances = np.clip(1 - rows.astype(np.float64) @ rows.T, 0, None)
    distances = (distances + distances.T) / 2
    np.fill_diagonal(distances, 0)
    return np.asarray(linkage(squareform(distances, checks=False), "average"))


def cut(merges: np.ndarray, height: float) -> np.ndarray:
    """Return the cluster of each row of a tree that is cut at a height, numbered from 1.

    >>> cut(tree(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])), 0.5).tolist()
    [1, 2, 1]
    """
    if not len(merges):
        return np.ones(1, int)
    _, first, numbers = np.unique(
        fcluster(merges, height, "distance"), return_index=True, return_inverse=True
    )
    return 1 + np.argsort(np.argsort(first))[numbers]


def best_height(rows: np.ndarray, identities: Sequence[str]) -> tuple[float, float]:
    """Return the height with the highest adjusted Rand index, and that.

    Args:
        rows: (N, D) unit rows.
        identities: The N identities.
    """
    merges = tree(rows)
    tried = np.unique(np.quantile(merges[:, 2], np.linspace(0, 1, HEIGHTS)))
    scores = [adjusted_rand_score(identities, cut(merges, height)) for height in tried.tolist()]
    best = int(np.argmax(scores))
    after = tried[min(best + 1, len(tried) - 1)]
    return float((tried[best] + after) / 2), float(scores[best])
