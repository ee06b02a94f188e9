"""From a caption's characters to the pieces that a model reads.

Read spelling.py first, how a fresh vocabulary spells any caption, then token_stats.py, what a model does not see.
"""
