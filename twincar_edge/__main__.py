"""`twincar-edge`, and `python -m twincar_edge`.

Ctrl-C ends the process without a traceback also while modules are imported, before the command line can handle it.
"""

from __future__ import annotations

import os
import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not if the caller has it ignored
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from twincar_edge.cli import main as run


def main() -> None:
    """Run the command line and exit."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
