"""Views of a pair and paraphrases of its caption.

Read views.py first, then stored_views.py, paraphrase.py and back_translation.py.
"""
