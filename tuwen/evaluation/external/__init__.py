"""Anybody's embeddings -> the metrics that our own models get: `tuwen evaluate`, `tuwen.evaluate`.

Read measure.py first, then arrays.py (vectors and the ids of their rows) and relevance.py (what belongs together).
"""
