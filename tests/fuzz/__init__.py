"""Hostile repos: good ones, mutated file by file, and what no mutation may make of a verification.

`python -m tests.fuzz --cases 1000000` runs longer than the suite does.
"""
