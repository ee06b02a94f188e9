"""MLflow as a projection of the outs: `tuwen track sync` can rebuild it.

Read runs.py first, then records.py, recipe.py, figures.py, lineage.py, abandoned.py, revision.py,
system_metrics.py, advice.py, artifacts.py, registry.py, served_model.py and published.py.
"""
