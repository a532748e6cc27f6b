"""python -m evergrow."""

from evergrow.cli import main

main()
