"""How the processes of a training share a model.

replicas.py: each has a whole copy (DDP).
"""
