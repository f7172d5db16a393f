"""The `loadsheet` command, and `python -m loadsheet`.

The command line takes a fifth of a second to import, and Ctrl-C may come within it: only what is
imported here is imported without its guard.
"""

from __future__ import annotations

import sys

_INTERRUPTED = 130  # as `loadsheet.cli.errors` has it, which may not be imported yet


def main() -> None:
    """Run the command line of this process and exit with its code, 130 after Ctrl-C."""
    try:
        from loadsheet.cli.main import main as command_line

        command_line()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
