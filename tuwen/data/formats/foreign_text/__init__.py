"""Text files as people have them: how they are to be read, decided by all of their bytes.

In reading order: plausibility.py (how probable a text is), wrong_bytes.py (bytes that are not of an encoding),
encoding.py (which one a file is in), mangled.py (lines that were decoded wrongly and saved), examined_text.py (all
this of one file), quote_scan.py (both readings of a table), dialect.py (which one holds).
"""
