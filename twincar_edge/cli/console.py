"""Rich's console for standard output; imported by commands that print tables, since Rich takes a while to import."""

from __future__ import annotations

from typing import NoReturn

from rich.console import Console


class OutputConsole(Console):
    """Prints to standard output, and leaves a closed pipe to `pipes.checked_output`: `… | head` is not an error."""

    def on_broken_pipe(self) -> NoReturn:
        """Raise the error again; Rich's own method exits with 1.

        Raises:
            BrokenPipeError: always.
        """
        raise BrokenPipeError
