"""Which process reads which part of which shard, and how it comes to it.

dealing.py: from a list of shards to spans and blocks. blocks.py: blocks that are read ahead. shard_copies.py:
remote shards on this machine's disk. mixed.py: several views as one. skipped.py: what all processes did not show.
"""
