"""The stage train: the embedder chosen by --objective, saved as model.safetensors.

A linear probe is trained by `linear_head`; every other objective, and every block of a backbone, by
`finetune`.
"""

from pkgutil import resolve_name

from lookalike.core.log import log
from lookalike.core.runs import Run
from lookalike.data.splits import load_split
from lookalike.features.extractor import untrained_extractor
from lookalike.models.checkpoints import save_untrained
from lookalike.training import distributed
from lookalike.training.history import write_history
from lookalike.training.linear_head import COLUMNS, train_linear_probe


def run_train(run: Run) -> str:
    """Train the embedder chosen by --objective and save model.safetensors and history.csv.

    With several processes, all ranks train; only rank 0 writes.

    Args:
        run: A run whose pictures are split.

    Returns:
        One line about the result; empty on all ranks but the first.

    Raises:
        UserError: The settings cannot be trained with; the message names the remedy.
    """
    settings = run.settings.train
    if settings.augmentation != "weak" and not settings.train_views:
        log.warning("warning: --augmentation has no effect without --train-views")
    pictures = load_split(run.path("split.json")).train
    if pictures and settings.epochs and not settings.is_linear_probe:
        # Its libraries take seconds to import, and the default does not need them.
        result: str = resolve_name("lookalike.training.finetune:run_finetune")(run)
        return result
    if distributed.rank() > 0:
        return ""
    run.path("training.png").unlink(missing_ok=True)
    if len(run.settings.embed.members) > 1:
        return _name_backbones(run)
    return train_linear_probe(run)


def _name_backbones(run: Run) -> str:
    """Write the model file of several backbones, which are not trained."""
    members = untrained_extractor(run, run.settings.embed).members
    write_history(run.path("history.csv"), [], COLUMNS)
    save_untrained(run.path("model.safetensors"), [member.embedder for member in members])
    return f"{len(members)} backbones and resolutions, as they are"
