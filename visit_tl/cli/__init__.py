"""The command `visit-tl`, one file per subcommand.

Commands parse arguments and print; the public calls do the work.
"""

from visit_tl.cli.command import app, main

__all__ = ["app", "main"]
