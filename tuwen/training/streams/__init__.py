"""Which process reads which part of which shard.

dealing.py: from a list of shards to spans and blocks. mixed.py: several views as one.
"""
