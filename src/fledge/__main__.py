"""`python -m fledge` is the command `fledge`."""

from fledge.cli.main import run

run()
