"""A toolkit for image-retrieval competitions: from pictures to a scored submission.

The parts of the pipeline for a notebook; every name is imported when it is first used.

    import lookalike as la

    data = la.read_dataset("data/demo")                       # a catalogue of checked pictures
    extractor = la.load_extractor("sface", root=data.root)    # faces aligned, mirror image too
    queries, gallery = extractor(data.query), extractor(data.gallery)    # (N, D) float32, cached
    ranking = la.rank(
        queries, gallery, la.RetrieveSettings(center=True),
        query_names=data.query.name, gallery_names=data.gallery.name,
    )
    la.write_submission(ranking, "submission.json")
    la.score("submission.json", "data/demo/labels.json")      # Recall@k, mAP, score, intervals

The whole pipeline is `la.run_pipeline(data="data/demo", backbone="sface")`.
"""

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

__version__ = "1.0.0"

if TYPE_CHECKING:
    from lookalike.core.errors import UserError as UserError
    from lookalike.core.settings import EmbedSettings as EmbedSettings
    from lookalike.core.settings import RetrieveSettings as RetrieveSettings
    from lookalike.core.settings import Settings as Settings
    from lookalike.data.dataset import Dataset as Dataset
    from lookalike.data.dataset import read_dataset as read_dataset
    from lookalike.data.splits import Split as Split
    from lookalike.data.splits import make_split as make_split
    from lookalike.evaluation.scoring import score as score
    from lookalike.evaluation.submissions import read_submission as read_submission
    from lookalike.evaluation.submissions import write_submission as write_submission
    from lookalike.features.extractor import FeatureExtractor as FeatureExtractor
    from lookalike.features.extractor import load_extractor as load_extractor
    from lookalike.pipeline import run_pipeline as run_pipeline
    from lookalike.retrieval.index import Ranking as Ranking
    from lookalike.retrieval.index import build_index as build_index
    from lookalike.retrieval.index import search as search
    from lookalike.retrieval.ranking import rank as rank

# Where each public name stands. The imports above tell the same to type checkers; a test compares.
_PUBLIC = {
    "Dataset": "lookalike.data.dataset",
    "EmbedSettings": "lookalike.core.settings",
    "FeatureExtractor": "lookalike.features.extractor",
    "Ranking": "lookalike.retrieval.index",
    "RetrieveSettings": "lookalike.core.settings",
    "Settings": "lookalike.core.settings",
    "Split": "lookalike.data.splits",
    "UserError": "lookalike.core.errors",
    "build_index": "lookalike.retrieval.index",
    "load_extractor": "lookalike.features.extractor",
    "make_split": "lookalike.data.splits",
    "rank": "lookalike.retrieval.ranking",
    "read_dataset": "lookalike.data.dataset",
    "read_submission": "lookalike.evaluation.submissions",
    "run_pipeline": "lookalike.pipeline",
    "score": "lookalike.evaluation.scoring",
    "search": "lookalike.retrieval.index",
    "write_submission": "lookalike.evaluation.submissions",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562): PyTorch takes seconds to import."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'lookalike' has no attribute {name!r}")
    value = globals()[name] = resolve_name(f"{_PUBLIC[name]}:{name}")
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
