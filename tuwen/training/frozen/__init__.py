"""Training the projections alone, over towers that stay as they are: what these compute is computed once.

Read pooled_views.py first, then projections.py.
"""
