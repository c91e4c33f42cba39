"""Converted checkpoints in front of real engines."""
