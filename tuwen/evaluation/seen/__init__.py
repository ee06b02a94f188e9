"""Queries whose caption stands in train, apart from the others: what was learnt by heart is no retrieval.

Read captions.py first, then rows.py.
"""
