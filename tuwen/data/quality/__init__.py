"""From raw sets to clean ones: measure, judge, quarantine, split.

Read validate.py first, then image_stats.py, text_stats.py, suites.py, expectations.py, quarantine.py,
consistency.py, near_duplicates.py, split.py, corpus.py, clean_sets.py, summary.py and
quality_file.py.
"""
