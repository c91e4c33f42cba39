"""Verification: rules that look at a repo and yield findings, and reports made of them."""
