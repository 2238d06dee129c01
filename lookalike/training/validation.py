"""The validation as a retrieval task for an embedder that is being trained.

score, spread = Judge(run, embedder, trunk).score(trunk, device)
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lookalike.core.errors import UserError
from lookalike.core.numeric import blocks
from lookalike.core.runs import Run
from lookalike.core.settings import judging_steps
from lookalike.data.catalogue import load_catalogue, rows_of
from lookalike.data.splits import load_split
from lookalike.evaluation.scoring import Labels, judge, means
from lookalike.features.extractor import run_extractor
from lookalike.models.embedder import Embedder
from lookalike.retrieval.index import as_mapping
from lookalike.retrieval.postprocess import Embeddings
from lookalike.retrieval.ranking import rank_embeddings
from lookalike.training.inputs import Inputs, inputs_of
from lookalike.training.trainable import TrainableEmbedder

CHUNK = 256  # pictures that are judged at once
Embed = Callable[[Tensor], Tensor]


class RetrievalValidator:
    """The validation as a retrieval task, for embeddings that change."""

    def __init__(self, run: Run, embedder: Embedder, trainable: TrainableEmbedder) -> None:
        self.task = load_split(run.path("split.json")).validation
        if not self.task.answerable:
            raise UserError(
                "no validation query has its person in the gallery, so that nothing can judge the "
                "training: give the data more labelled people, or another --split"
            )
        catalogue = load_catalogue(run.path("training.csv"))
        self.views = run_extractor(run, embedder).views
        self.inputs: dict[str, Inputs] = {
            part: inputs_of(run, embedder, trainable, rows_of(catalogue, paths), self.views)
            for part, paths in self.task._asdict().items()
        }
        self.steps = judging_steps(run.settings.retrieve)

    def score(self, embed: Embed, device: torch.device) -> tuple[float, float]:
        """(score, spread): the ranking's score, 0 to 1000; and 1 - the mean cosine of all pairs of
        gallery pictures, 0 where all are alike.

        embed: what the feeds give -> rows of any length.
        """
        rows = {part: self._rows(embed, part, device) for part in self.task._fields}
        none = np.zeros((0, rows["query"].shape[1]), np.float32)
        embeddings = Embeddings(rows["query"], rows["gallery"], none, none)
        keys = {part: sorted(paths) for part, paths in self.task._asdict().items()}
        ranking = rank_embeddings(embeddings, self.steps, keys["gallery"], keys["query"])
        score = means(judge(as_mapping(ranking), Labels(*self.task)))["score"]
        return score, 1 - float(np.square(rows["gallery"].mean(0, dtype=np.float64)).sum())

    @torch.inference_mode()
    def _rows(self, embed: Embed, part: str, device: torch.device) -> np.ndarray:
        """(N, D) unit rows in the order of the keys: the sum of all views, as in every stage."""
        paths = list(getattr(self.task, part))
        order = np.array(sorted(range(len(paths)), key=paths.__getitem__))
        chunks = [order[block] for block in blocks(len(order), CHUNK)]
        total = []
        for chunk in chunks:
            shown = [np.full(len(chunk), view) for view in range(len(self.views))]
            rows = [embed(self.inputs[part].take(chunk, view).to(device)) for view in shown]
            summed = torch.stack([normalize(row.float(), dim=1) for row in rows]).sum(0)
            total.append(normalize(summed, dim=1).cpu())
        return torch.cat(total).numpy()
