"""From a model and a set to vectors, and from vectors to ranks.

Read vectors.py first, then encode.py and embed.py, search.py and shortlist.py, metrics.py, exact_intervals.py and
qb_norm.py, retriever.py, and lookup.py, which asks it.
"""
