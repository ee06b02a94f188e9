"""The checkout that the tests run in."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")  # the versions that all pins have wheels for
