"""Benchmarks: each prints a ratio; none asserts."""
