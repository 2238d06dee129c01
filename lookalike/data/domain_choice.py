"""Which domain a labeled picture has, and which one the test's queries have, where nobody says so.

    catalogue, query_domain = with_domains(catalogue, root, pattern=None, query_domain=None)

The validation resembles the test only where its queries are chosen as the test's are: by domain,
where those are photographs and the gallery is drawn. Domains are read from file names and folders
(`photo_01.jpg`, `drawing/01.jpg`). They are those of the test where its queries look like one of
them and its gallery does not, which is found without any label of the test.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from lookalike.core.log import log
from lookalike.data.appearance import describe_looks, difference_of_looks, fit_looks, sample_rows
from lookalike.data.catalogue import gallery_of, queries_of, readable
from lookalike.data.layout import LABELED

SAMPLE = 400  # pictures of the queries, of the gallery and of each domain that are looked at
MOST_DOMAINS = 8
NAMED = 0.95  # of the pictures have a name that says a domain
IN_SEVERAL = 0.5  # of the identities with several pictures are in several domains
GAP = 0.25  # the queries' mean probability of a domain is so much above the gallery's
FAR_APART = 0.85  # area under the ROC curve from which on queries and gallery look different
SURE, SURELY = 0.8, 0.8  # the share of pictures that are judged with at least this probability
PREFIX = re.compile(r"([^\W\d_]+)[_\-. ]*[\d_\-. ]")
LIKE_QUERIES, LIKE_GALLERY = "like the queries", "like the gallery"


def with_domains(
    catalogue: pd.DataFrame, root: Path, pattern: str | None, query_domain: str | None
) -> tuple[pd.DataFrame, str]:
    """Return the catalogue with the domains of its labeled pictures, and the queries' domain.

    Args:
        catalogue: What `read_catalogue` returns, with domains where there is a pattern.
        root: The data set's folder.
        pattern: The regular expression that gave the domains; None: they are to be found, unless
            a table has told them.
        query_domain: The queries' domain; None: it is to be found.

    Returns:
        The catalogue, and the domain of the queries, "" where none is known. What was found is
        said in the log.
    """
    labeled = catalogue.part.isin(LABELED) & readable(catalogue)
    looks = Looks(catalogue, root)
    if pattern is None and (catalogue.domain[labeled] == "").all():
        values = domains_by_name(catalogue[labeled])
        found = looks.query_domain(catalogue[labeled], values) if values is not None else None
        if values is not None and (found or query_domain in set(values)):
            log.info("domains by name: %s", _counts(values))
        elif (values := looks.domains(catalogue[labeled])) is not None:
            log.info("domains by their looks: %s", _counts(values))
            found = LIKE_QUERIES
        else:
            return catalogue, query_domain or ""
        catalogue = catalogue.copy()
        catalogue.loc[labeled, "domain"] = values
    elif query_domain is None:
        found = looks.query_domain(catalogue[labeled], catalogue.domain[labeled])
        found = found or _default(catalogue.domain[labeled])
    if query_domain is None:
        log.info("the queries are of the domain %s (--query-domain names another)", found)
    return catalogue, query_domain or found or ""


def _counts(values: pd.Series) -> str:
    """Say how many pictures each domain has."""
    return ", ".join(
        f"{count} {name or 'unknown'}" for name, count in values.value_counts().items()
    )


def _default(domains: pd.Series) -> str:
    """Return the queries' domain where looks do not tell: photographs, or else the commonest."""
    known = domains[domains != ""]
    return "photo" if "photo" in set(known) or known.empty else str(known.mode()[0])


def domains_by_name(rows: pd.DataFrame) -> pd.Series | None:
    """Return the domains that the names of labeled pictures say, if they say any.

    Args:
        rows: Of labeled pictures: `path` and `identity`.

    Returns:
        The folder between an identity's folder and its pictures, or else the letters that a file
        name starts with, in lower case; rare ones are unknown, "". None where there are not a few
        of them, each with pictures of many identities.

    >>> names = ["photo_1", "photo_2", "drawing_1"]
    >>> paths = [f"training/{who}/{name}.jpg" for who in ("ada", "bo") for name in names]
    >>> rows = pd.DataFrame({"path": paths, "identity": ["ada"] * 3 + ["bo"] * 3})
    >>> domains_by_name(rows).tolist()
    ['photo', 'photo', 'drawing', 'photo', 'photo', 'drawing']
    """
    for name_of in (_folder, _prefix):
        values = rows.path.map(name_of)
        rare = values.map(values.value_counts(normalize=True)) < 0.01
        values = values.mask(rare, "")
        known = values[values != ""]
        if not 2 <= known.nunique() <= MOST_DOMAINS or len(known) < NAMED * len(rows):
            continue
        of_identity = known.groupby(rows.identity).agg(["size", "nunique"])
        several = of_identity["nunique"][of_identity["size"] > 1]
        if len(several) and (several > 1).mean() >= IN_SEVERAL:
            return values
    return None


def _folder(path: str) -> str:
    """Return the folders between an identity's folder and the picture."""
    return "/".join(path.split("/")[2:-1]).lower()


def _prefix(path: str) -> str:
    """Return the letters that a file name starts with, before a digit or a separator."""
    match = PREFIX.match(path.rpartition("/")[2])
    return match[1].lower() if match else ""


class Looks:
    """How the test's queries and gallery look; pictures are read when they are first asked for.

    Args:
        catalogue: Of all pictures.
        root: The data set's folder.
    """

    def __init__(self, catalogue: pd.DataFrame, root: Path) -> None:
        self.catalogue, self.root = catalogue[readable(catalogue)], root
        self.sides: list[np.ndarray] = []

    def of(self, rows: pd.DataFrame) -> np.ndarray:
        """Return (N, F) what pictures look like."""
        return describe_looks(self.root, rows)

    def test(self) -> list[np.ndarray]:
        """Return the looks of a sample of the queries and of the gallery."""
        if not self.sides:
            parts = queries_of(self.catalogue), gallery_of(self.catalogue)
            self.sides = [self.of(sample_rows(part, SAMPLE)) for part in parts]
        return self.sides

    def query_domain(self, labeled: pd.DataFrame, domains: pd.Series) -> str | None:
        """Return the domain that the queries look like and the gallery does not, if there is one.

        Args:
            labeled: Of labeled pictures.
            domains: Of each of them, "" where it is unknown.
        """
        known = [sample_rows(rows, SAMPLE) for name, rows in labeled.groupby(domains) if name != ""]
        if len(known) < 2 or not all(map(len, self.test())):
            return None
        sample = pd.concat(known)
        judge = fit_looks(self.of(sample), domains[sample.index].to_numpy())
        queries, gallery = (judge.predict_proba(side).mean(0) for side in self.test())
        best = int((queries - gallery).argmax())
        return str(judge.classes_[best]) if queries[best] - gallery[best] >= GAP else None

    def domains(self, labeled: pd.DataFrame) -> pd.Series | None:
        """Return which labeled pictures look like the queries, and which like the gallery.

        Where queries and gallery look different, and the labeled pictures cannot be told from
        either, a warning says that the validation cannot resemble the test.
        """
        if not len(labeled) or difference_of_looks(*self.test()) < FAR_APART:
            return None
        kinds = np.repeat([1, 0], [*map(len, self.test())])
        judged = fit_looks(np.concatenate(self.test()), kinds).predict_proba(self.of(labeled))
        values = pd.Series(np.where(judged[:, 1] >= 0.5, LIKE_QUERIES, LIKE_GALLERY), labeled.index)
        sure = (judged.max(1) >= SURE).mean() >= SURELY
        several = (values.groupby(labeled.identity).nunique() > 1).mean() >= IN_SEVERAL
        if sure and several:
            return values
        log.warning(
            "warning: the test's queries look different from its gallery, and no domain of the "
            "training's pictures is known: the validation cannot resemble the test, so that its "
            "score and the forecast are too high or too low; --domain-pattern names the domains"
        )
        return None
