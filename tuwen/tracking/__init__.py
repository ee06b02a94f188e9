"""MLflow as a projection of the outs, which `tuwen track sync` can rebuild.

Read runs.py first, then lineage.py, revision.py, artifacts.py, registry.py and served_model.py.
"""
