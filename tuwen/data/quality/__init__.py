"""From raw sets to clean ones: measure, examine, quarantine, split.

Read validate.py first, then image_stats.py, text_stats.py, pair_stats.py, suites.py, expectations.py,
quarantine.py, consistency.py, components.py, near_duplicates.py, groups.py, split.py, dealing.py, corpus.py,
clean_sets.py and summary.py.
"""
