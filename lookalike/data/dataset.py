"""A competition's data set as a notebook reads it: its root, and the catalogue of its pictures."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lookalike.core.settings import ListingSettings
from lookalike.data import domains
from lookalike.data.catalogue import bare_names, read_catalogue, readable
from lookalike.data.domain_choice import with_domains
from lookalike.data.layout import GALLERY, QUERIES
from lookalike.data.splits import Split, make_split


@dataclass(frozen=True)
class Dataset:
    """The pictures of a data set that can be read, by part.

    Attributes:
        root: The data set's folder; the catalogue's paths are relative to it.
        catalogue: A row per file: `path`, `name` (the bare file name, which a submission holds),
            `identity` (empty in the test), `domain`, `part`, `content` (a hash) and `problem`.
        query_domain: The domain of the queries, where domains are known.
    """

    root: Path
    catalogue: pd.DataFrame
    query_domain: str = "photo"

    @property
    def training(self) -> pd.DataFrame:
        """The labeled pictures, including those of a validation folder."""
        return self._rows("training", "validation")

    @property
    def query(self) -> pd.DataFrame:
        """The test's query pictures."""
        return self._rows(*QUERIES)

    @property
    def gallery(self) -> pd.DataFrame:
        """The test's gallery pictures."""
        return self._rows(*GALLERY)

    @property
    def unreadable(self) -> pd.DataFrame:
        """The files of any part that cannot be read as pictures."""
        return self.catalogue[~readable(self.catalogue)].reset_index(drop=True)

    def split(self, kind: str = "auto", query_domain: str | None = None, seed: int = 0) -> Split:
        """Divide the labeled pictures into training and validation; see `make_split`."""
        return make_split(self.catalogue, kind, query_domain or self.query_domain, seed)

    def _rows(self, *parts: str) -> pd.DataFrame:
        chosen = self.catalogue.part.isin(parts) & readable(self.catalogue)
        return self.catalogue[chosen].reset_index(drop=True)


def read_dataset(
    root: str | Path, domain_pattern: str | None = None, listing: ListingSettings | None = None
) -> Dataset:
    r"""Read a data set: open, hash and check every picture.

    What is wrong with it (broken or truncated files, odd formats) is counted and named in the log.

    Args:
        root: Folder with `test/query/` and `test/gallery/`, and usually `training/<identity>/`,
            or with tables.
        domain_pattern: Regular expression with a group named `domain`, searched in the path of each
            training picture. Default: what the data set's own layout.json says, else the domains
            that file names and looks tell.
        listing: How its parts and identities are told apart, where folders do not.

    Raises:
        UserError: There is no competition, the pattern is no such expression, or two pictures of
            the query or of the gallery share their name.

    Examples:
        >>> import tempfile
        >>> from lookalike.data.demo import draw_competition
        >>> folder = Path(tempfile.mkdtemp())
        >>> draw_competition(folder, seed=0, train_identities=2, test_identities=1)
        >>> data = read_dataset(folder, r"(?P<domain>[a-z]+)_\d+")
        >>> data.training.groupby("identity").size().tolist()
        [10, 10]
        >>> sorted(data.training.domain.unique())
        ['flat', 'line', 'photo', 'poster', 'texture']
        >>> len(data.query), len(data.gallery)
        (3, 10)
    """
    root = Path(root)
    pattern = domains.domain_pattern(domain_pattern, root)
    catalogue, domain = with_domains(read_catalogue(root, pattern, listing), root, pattern, None)
    catalogue.insert(1, "name", bare_names(catalogue.path).to_numpy())
    return Dataset(root, catalogue, domain)
