"""`python -m tlac` is the `tlac` command."""

from tlac.cli import main

main()
