"""Anybody's embeddings -> the metrics that our own models get: `tuwen evaluate`, `tuwen.evaluate`.

Read measure.py first, then arrays.py (vectors and the ids of their rows), relevance.py (what belongs together) and
scores.py (what a re-ranker says of some pairs).
"""
