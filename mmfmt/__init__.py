"""Convert Mistral checkpoints between their two layouts, and verify them before upload."""

__version__ = "0.1.0"
