"""What the loss compares a pair with beside its own batch's, and which other pairs are no negatives of it.

alike.py: what the start model holds for as alike as the true pairs. expected.py: how many siblings a batch holds,
said before the first step. vector_queue.py: earlier pairs.
"""
