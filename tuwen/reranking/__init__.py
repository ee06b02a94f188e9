"""From a dual encoder and views to a re-ranker.

Read recipe.py first, no_reranker.py where there is none, then joint.py, objective.py, encoded.py, negatives.py,
lengths.py, masking.py, losses.py, regions.py, clusters.py, validation.py.
"""
