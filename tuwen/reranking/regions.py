"""Masked region modelling: which patches are behind the hidden ones, by feature and by cluster.

Shapes: b pairs of this process, P tokens of an image of width C, M hidden patches, N patches of the first batch.
"""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from tuwen.model.cross_encoder import CrossEncoder
from tuwen.model.towers import stop_patch_dropout
from tuwen.reranking import losses, masking
from tuwen.reranking.clusters import find_clusters
from tuwen.reranking.encoded import Encoded
from tuwen.training import distributed

if TYPE_CHECKING:  # pydantic is not needed to step on tensors
    from tuwen.core.params import Rerank

OBJECTIVES = ("mrfr", "mrc", "mrc_kl")
FIRST_PATCH = 1  # the token before stands for the whole image
CLUSTERED = 20_000  # patches of the first batch that clusters are found among, at the most


class MaskedRegions:
    """The three objectives by their weights, and the clusters that two of them ask for."""

    def __init__(self, settings: "Rerank") -> None:
        self._settings = settings
        self._names = [name for name, weight in settings.objectives if name in OBJECTIVES and weight]
        self.centres: Tensor | None = None

    def keep_all_patches(self, model: nn.Module) -> None:
        """Leave out no patch of trained towers: a teacher reads all, and both must mean the same patches."""
        if self._names:
            stop_patch_dropout(model)

    def compute_terms(
        self, cross: CrossEncoder, encoded: Encoded, target_bPC: Tensor, uniform_bP: Tensor
    ) -> dict[str, Tensor]:
        """Return their losses, from a pass of its own: the texts are whole in it.

        target_bPC: what the hidden patches are compared with: the tokens of the momentum teacher where there is
        one, else the towers' own, which learn nothing from that side. uniform_bP: decides which are hidden.
        """
        if not self._names:
            return {}
        share, total, tokens_bPC = self._settings.hidden_share, distributed.average_over_ranks, encoded.tokens
        uniform_bP = uniform_bP[:, : tokens_bPC.shape[1]]  # towers under training may leave patches out
        shown, hidden_bP = masking.hide_patches(tokens_bPC, uniform_bP.to(tokens_bPC.device), share, FIRST_PATCH)
        states = cross(shown, encoded.whole, encoded.mask).image
        assert states is not None  # core/params/rerank.py
        found_MC, true_MC = cross.predict_patches(states[hidden_bP]), target_bPC[hidden_bP].detach()
        terms = {}
        if "mrfr" in self._names:
            terms["mrfr"] = losses.compute_feature_loss(found_MC, true_MC, total)
        for name in [name for name in self._names if name != "mrfr"]:
            centres = self._find_centres(target_bPC.detach())
            terms[name] = losses.compute_cluster_loss(found_MC, true_MC, centres, name == "mrc_kl", total)
        return terms

    def _find_centres(self, tokens_bPC: Tensor) -> Tensor:
        """Return the clusters' centres, found in the first step among the patches of all processes."""
        if self.centres is None:
            patches_NC = distributed.gather_rows(tokens_bPC[:, FIRST_PATCH:].contiguous()).flatten(0, 1)
            patches_NC = patches_NC[:: -(-len(patches_NC) // CLUSTERED)]
            found = None
            if distributed.is_first():
                found = find_clusters(patches_NC, self._settings.clusters, self._settings.seed)
            centres = distributed.broadcast_first(found)
            assert centres is not None
            self.centres = centres.to(tokens_bPC.device)
        return self.centres
