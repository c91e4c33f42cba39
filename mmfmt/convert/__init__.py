"""Conversion: a plan made from headers, and the executor that carries it out."""
