"""Clusters of patches, of which a re-ranker is asked what kind a hidden one is.

Shapes: N patches, C numbers of a patch's feature, R clusters.
"""

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor
from torch.nn import functional

from tuwen.core.errors import UserError

ROUNDS = 20


def find_clusters(feature_NC: Tensor, clusters: int, seed: int) -> Tensor:
    """Return the centres [R, C] of k-means over features brought to deviation one, as the losses read them.

    The same seed finds the same ones. Raises UserError where there are fewer patches than clusters.
    """
    if len(feature_NC) < clusters:
        raise UserError(
            f"params.yaml: rerank.clusters: {clusters} are more than the {len(feature_NC)} patches of the first "
            "batches; lower it"
        )
    rows = functional.layer_norm(feature_NC.float(), feature_NC.shape[-1:]).cpu().double().numpy()
    generator = np.random.default_rng(seed)
    centres, _ = kmeans2(rows, clusters, iter=ROUNDS, minit="++", missing="warn", rng=generator)
    return torch.from_numpy(centres).float()
