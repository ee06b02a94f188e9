"""MLflow as a projection of the outs: `tuwen track sync` can rebuild it.

Read runs.py first, then lineage.py, revision.py, advice.py, artifacts.py, registry.py and served_model.py.
"""
