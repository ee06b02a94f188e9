"""From a caption's characters to the pieces that a model reads.

Read spelling.py first, how a fresh vocabulary spells any caption, then pieces.py, how pieces of SentencePiece do,
caption_tokenizer.py, which reads captions by either, library_tokenizer.py, how a published model does, and
token_stats.py, what a model does not see. padding.py: texts of several lengths in one batch.
"""
