"""``python -m hunmin`` is the command line."""

from hunmin.cli import main

main()
