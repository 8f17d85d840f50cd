"""twincar-edge: which car just passed, on a small box, with the answer that was validated.

The rooms are subpackages: `training`, `export`, `runtime`, `benchmarks`. Import from them, never from the bare folder
names. This module imports nothing heavy, so that `twincar-edge --help` answers at once.
"""

from twincar_edge._version import __version__

__all__ = ["__version__"]
