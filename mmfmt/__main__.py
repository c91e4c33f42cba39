"""`python -m mmfmt`."""

from mmfmt.cli import main

main()
