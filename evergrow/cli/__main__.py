"""python -m evergrow.cli."""

from evergrow.cli import main

main()
