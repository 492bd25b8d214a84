"""Measurements of ansor-lite: every module with a ``main`` is a command, see README.md.

They are not part of the installed package; run them from the repository as ``python -m
benchmarks.NAME``.
"""
