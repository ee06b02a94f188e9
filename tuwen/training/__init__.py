"""From views to a model folder.

Read recipes.py first (provenance/: what their manifests name), then runner.py, trainer.py, objective.py, step.py,
loss.py, optim.py, gradcache.py, distributed.py, checkpoint.py, selection.py, validation.py; and on the way of the
data: dataset.py, streaming.py, no_duplicates.py, loader.py. How processes share a model: engines/. frozen/ trains
over towers or vectors that stay as they are; negatives/: what a batch holds beside its own pairs; distillation/:
what a teacher adds to them.
"""
