"""From raw sets to clean ones: measure, examine, quarantine, split.

Read validate.py first, then image_stats.py, text_stats.py, caption_marks.py, pair_stats.py, suites.py,
expectations.py, examined_table.py, quarantine.py, consistency.py, duplicates/, split.py, dealing.py, corpus.py,
clean_sets.py and summary.py.
"""
