"""GStreamer's RTSP server on loopback, in a process that tests can kill, restart and freeze.

The program below runs under Debian's own Python, which has GStreamer's bindings (gir1.2-gst-rtsp-server-1.0 and
python3-gi), not under the tests' Python.
"""

from __future__ import annotations

import functools
import select
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.support.servers import free_port, skip_or_fail

PYTHON = "/usr/bin/python3"
START_S = 20.0  # for the program to listen, on a busy machine

_PROGRAM = """
import sys
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer

clip, port, user, password = sys.argv[1:]
Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(port)
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(f'( filesrc location="{clip}" ! qtdemux ! h264parse ! rtph264pay name=pay0 pt=96 )')
if user:
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_permission_for_role("viewer", "media.factory.access", True)
    permissions.add_permission_for_role("viewer", "media.factory.construct", True)
    factory.set_permissions(permissions)
server.get_mount_points().add_factory("/live", factory)
if not server.attach(None):
    sys.exit(f"cannot listen on port {port}")
print("listening", flush=True)
GLib.MainLoop().run()
"""


@functools.cache
def _missing() -> str | None:
    """Return in one line what the server lacks, or None."""
    probe = (
        _PROGRAM.split("clip, port", 1)[0]
        + "Gst.init(None)\n"
        + (
            "for name in ('qtdemux', 'h264parse', 'rtph264pay'):\n"
            "    if Gst.ElementFactory.find(name) is None: sys.exit(f'GStreamer has no {name}')\n"
        )
    )
    try:
        done = subprocess.run([PYTHON, "-c", probe], capture_output=True, text=True, timeout=60)
    except OSError as error:
        return f"no RTSP server: {PYTHON}: {error.strerror}"
    if done.returncode:
        return f"no RTSP server: {PYTHON}: {(done.stderr.strip().splitlines() or ['it fails'])[-1]}"
    return None


def require_rtsp_server() -> None:
    """Skip or fail the test if GStreamer's RTSP server is not installed; see `skip_or_fail`."""
    reason = _missing()
    if reason is not None:
        skip_or_fail(reason)


class RtspServer:
    """Serves one H.264 clip in real time, from its first frame for every connection.

    A context manager: entering starts the server, leaving kills it. The stream ends after the clip was played `loops`
    times.

    Attributes:
        url: its address, without user and password.
    """

    def __init__(self, clip: Path, *, user: str = "", password: str = "", loops: int = 1) -> None:
        """Take the clip, an MP4 with H.264, and choose a port for all starts."""
        require_rtsp_server()
        self.port = free_port()
        self.url = f"rtsp://127.0.0.1:{self.port}/live"
        self._clip = clip
        self._login = user, password
        self._loops = loops
        self._folder = tempfile.TemporaryDirectory(prefix="rtsp-")
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Start the server."""
        if self._loops > 1:
            self._clip = _repeated(self._clip, self._loops, Path(self._folder.name))
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the server."""
        self.kill()
        self._folder.cleanup()

    def start(self) -> None:
        """Start the server, always on the same port, and wait until it listens."""
        assert self._process is None
        command = [PYTHON, "-W", "ignore", "-c", _PROGRAM, str(self._clip.absolute()), str(self.port), *self._login]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._process = process
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], START_S)
        assert ready and process.stdout.readline().strip() == "listening", "the RTSP server does not start"

    def kill(self) -> None:
        """Kill the server without a goodbye to its clients, as a power cut would; their connections are reset."""
        if self._process is not None:
            assert self._process.stdout is not None
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._process = None

    def freeze(self) -> None:
        """Suspend the server: connections stay open, but receive nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume a frozen server."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def _repeated(clip: Path, times: int, folder: Path) -> Path:
    """Write an MP4 that repeats a clip, without encoding it again, and return its path."""
    import imageio_ffmpeg

    longer = folder / "longer.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-stream_loop", str(times - 1)]
    subprocess.run([*command, "-i", str(clip), "-an", "-c", "copy", str(longer)], check=True)
    return longer
