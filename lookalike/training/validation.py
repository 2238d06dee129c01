"""The validation as a retrieval task for an embedder that is being trained.

validator = RetrievalValidator(split.validation, catalogue, extractor, frozen, steps)
validator.score(trainable, device)   # {"score": 512.0, "spread": 0.31}
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lookalike.core.errors import UserError
from lookalike.core.numeric import blocks
from lookalike.core.settings import RetrieveSettings
from lookalike.data.catalogue import rows_of
from lookalike.data.splits import RetrievalTask
from lookalike.evaluation.metrics import SCORE, Metric
from lookalike.evaluation.scoring import Labels, find_hits, mean_measures
from lookalike.features.extractor import FeatureExtractor
from lookalike.models.embedder import Embedder
from lookalike.retrieval.embeddings import Embeddings
from lookalike.retrieval.index import as_mapping
from lookalike.retrieval.ranking import rank_embeddings
from lookalike.training.inputs import Inputs, inputs_of

CHUNK = 256  # pictures that are embedded at once
Embed = Callable[[Tensor], Tensor]


class RetrievalValidator:
    """Ranks the validation's gallery for its queries by embeddings that change.

    Args:
        task: Queries and gallery of the validation.
        catalogue: Of the training pictures.
        extractor: Of the whole embedder; a picture is seen in all of its views.
        frozen: The embedder's frozen part; None where nothing is frozen.
        steps: The ranking's steps.
        metric: What the score is.

    Raises:
        UserError: No query has its identity in the gallery.
    """

    def __init__(
        self,
        task: RetrievalTask,
        catalogue: pd.DataFrame,
        extractor: FeatureExtractor,
        frozen: Embedder | None,
        steps: RetrieveSettings,
        metric: Metric = SCORE,
    ) -> None:
        if not task.answerable:
            raise UserError(
                "no validation query has its identity in the gallery, so that nothing can score "
                "the training: give the data more labeled identities, or another --split"
            )
        self.task, self.steps, self.views = task, steps, extractor.views
        self.metric = metric
        self.inputs: dict[str, Inputs] = {
            part: inputs_of(extractor, frozen, rows_of(catalogue, paths), self.views)
            for part, paths in task._asdict().items()
        }

    def score(self, embed: Embed, device: torch.device) -> dict[str, float]:
        """Return the score of a network's ranking, and the spread of its embeddings.

        Args:
            embed: Maps inputs to embeddings of any length.
            device: Where it runs.

        Returns:
            score; and spread, 1 - the mean cosine of all pairs of gallery
            pictures, 0 where all are alike.
        """
        rows = {part: self._embed(embed, part, device) for part in self.task._fields}
        none = np.zeros((0, rows["query"].shape[1]), np.float32)
        embeddings = Embeddings(rows["query"], rows["gallery"], none, none)
        keys = {part: sorted(paths) for part, paths in self.task._asdict().items()}
        ranking = rank_embeddings(
            embeddings, self.steps, keys["gallery"], keys["query"], self.metric.length
        )
        hits = find_hits(as_mapping(ranking), Labels(*self.task), self.metric.length)
        score = mean_measures(hits, self.metric)["score"]
        center = rows["gallery"].mean(0, dtype=np.float64)
        return {"score": float(score), "spread": 1 - float(np.square(center).sum())}

    @torch.inference_mode()
    def _embed(self, embed: Embed, part: str, device: torch.device) -> np.ndarray:
        """Return (N, D) unit rows in the order of the keys: the sum of all views."""
        paths, inputs = list(getattr(self.task, part)), self.inputs[part]
        order = np.array(sorted(range(len(paths)), key=paths.__getitem__))
        total = []
        for block in blocks(len(order), CHUNK):
            chunk = order[block]
            views = [np.full(len(chunk), view) for view in range(len(self.views))]
            rows = [embed(inputs.take(chunk, view).to(device)) for view in views]
            summed = torch.stack([normalize(row.float(), dim=1) for row in rows]).sum(0)
            total.append(normalize(summed, dim=1).cpu())
        return torch.cat(total).numpy()
