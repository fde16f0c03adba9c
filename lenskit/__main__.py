"""`python -m lenskit`: the command line, also for accelerate launch."""

from lenskit.cli.app import app

app(prog_name="lenskit")
