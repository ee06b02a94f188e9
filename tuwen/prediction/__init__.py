"""The answers to the tasks.

Read predict.py first, then reranking.py (whether and how they are ordered anew), result_file.py, check.py and
truth.py.
"""
