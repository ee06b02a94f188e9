"""Both towers and the layers over their tokens as one model, for a training of all of them."""

from torch import nn

from tuwen.model.cross_encoder import CrossEncoder
from tuwen.model.dual_encoder import DualEncoder
from tuwen.model.reranker import ReRanker


class JointModel(nn.Module):
    """What is trained where the towers are: optimizers, averages and checkpoints take it for one model."""

    def __init__(self, dual: DualEncoder, cross: CrossEncoder) -> None:
        super().__init__()
        self.dual, self.cross = dual, cross


def split_model(model: CrossEncoder | JointModel, dual: DualEncoder) -> ReRanker:
    """Return the parts of a model under training; of a cross encoder alone the towers are those of `dual`."""
    return ReRanker(model.dual, model.cross) if isinstance(model, JointModel) else ReRanker(dual, model)
