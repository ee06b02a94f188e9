"""Prefect flows: they start DVC stages in child processes and watch them; DVC owns the graph and the state."""
