"""What somebody's own files are: their kind, columns and sizes, and a preset that fits them.

Read find_source.py first, then columns.py and explain_files.py, measure_source.py and draft.py.
"""
