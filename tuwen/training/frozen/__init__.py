"""Trainings over vectors that stay as they are: adapters.py."""
