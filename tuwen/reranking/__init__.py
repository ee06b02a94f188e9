"""From a dual encoder and views to a re-ranker.

Read recipe.py first, then joint.py, objective.py, encoded.py, negatives.py, lengths.py, masking.py, losses.py,
regions.py, clusters.py, validation.py.
"""
