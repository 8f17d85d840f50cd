"""twincar-edge: which car just passed, on a small box, with the answer that was validated.

The rooms are subpackages: `training`, `export`, `runtime`, `benchmarks`. Import from them, never from the bare folder
names. This module imports nothing heavy, so that `twincar-edge --help` answers at once.
"""

import os

from twincar_edge._version import __version__

# From 1.29 on, ONNX Runtime tells its maker of the models that it opens. A camera box tells nobody. The variable is
# read when ONNX Runtime is imported, which nothing of ours does before this.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["__version__"]
