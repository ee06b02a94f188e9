"""Trainings over what stays as it is: projections over frozen towers, heads over another program's vectors.

Read pooled_views.py first, then projections.py and adapters.py.
"""
