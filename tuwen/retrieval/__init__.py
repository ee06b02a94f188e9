"""From a model and a set to vectors, and from vectors to ranks.

Read embed.py first, then search.py, shortlist.py, metrics.py, qb_norm.py and retriever.py.
"""
