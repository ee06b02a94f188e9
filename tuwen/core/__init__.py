"""What every room uses, and what uses no room: settings, errors, progress, processes.

Read params/ first, then presets.py, worktree.py, versions.py, dvc_settings.py, linked_outs.py, garbage.py,
environment.py, errors.py, progress.py, cores.py, executor.py, signals.py, locks.py, wheels.py and compat.py.
"""
