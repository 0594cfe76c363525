"""`python -m snrouter`."""

from snrouter.cli import main

main()
