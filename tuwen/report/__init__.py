"""What people read: results/report.md and report.html.

Read report.py first, then markdown.py, whose tables are of tables.py, curves.py, reranking.py, reliability.py,
slices.py, small_vectors.py, examples.py, attention.py with heat.py, hubs.py and doubtful_pairs.py; html and
quality hold the parts of pages, templates their forms. terminal.py is the same in short.
"""
