"""95 % intervals of what `metrics` computes.

Read resampling.py first, then exact.py, which stands in where the bootstrap sees too little.
"""
