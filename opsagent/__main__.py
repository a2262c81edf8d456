"""`python -m opsagent`."""

from opsagent.cli import main

main()
