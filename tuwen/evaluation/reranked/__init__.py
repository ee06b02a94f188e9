"""A re-ranker as one more model: it reorders what the dual encoder finds.

Read evaluate.py first, then scored_set.py, rows.py (its rows of FIGURES) and matching.py (AUC by cosine and by the
match).
"""
