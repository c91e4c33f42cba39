"""What a repo holds: every module with its scheme and size, as data, as text and as a page."""
