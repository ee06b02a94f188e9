"""How the processes of a training share a model.

replicas.py: each has a whole copy (DDP). shards.py: each has a share (FSDP2). local.py: what a step does with
either, and weights.py what a training moves; states.py: how shares become whole, and files. loss_scale.py: what
keeps fp16 gradients above zero. batch_norm.py: means over the rows of all processes.
"""
