"""From a frozen dual encoder and views to a re-ranker.

Read recipe.py first, then objective.py, encoded.py, negatives.py, masking.py, losses.py, clusters.py,
validation.py.
"""
