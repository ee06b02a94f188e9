"""What every room uses and what uses none of them.

Read params first, then errors.py, progress.py, executor.py, signals.py, worktree.py and compat.py.
"""
