"""OpenCV's environment variables: a value of the wrong type raises C++ exceptions in it, many of which end the process.

This module does not import OpenCV, which reads half of them as it is imported.
"""

from __future__ import annotations

import os
import re

from twincar_edge.errors import InputError

# Backs up the limit in `images.decode_image`; the command line sets it.
MAX_PIXELS = ("OPENCV_IO_MAX_IMAGE_PIXELS", "100000000")

# Those that our use of OpenCV reads, by type.
_NUMBERS = (
    "OPENCV_FFMPEG_DECODE_ATTEMPTS",
    "OPENCV_FFMPEG_READ_ATTEMPTS",
    "OPENCV_FOR_THREADS_NUM",
    "OPENCV_IMGCODECS_AVIF_MAX_FILE_SIZE",
    "OPENCV_IMGCODECS_WEBP_MAX_FILE_SIZE",
    "OPENCV_IO_MAX_IMAGE_HEIGHT",
    "OPENCV_IO_MAX_IMAGE_PARAMS",
    MAX_PIXELS[0],
    "OPENCV_IO_MAX_IMAGE_WIDTH",
    "OPENCV_KMEANS_PARALLEL_GRANULARITY",
    "OPENCV_OPENCL_ALIGNMENT_MEM_USE_HOST_PTR",
    "OPENCV_THREAD_POOL_ACTIVE_WAIT_MAIN",
    "OPENCV_THREAD_POOL_ACTIVE_WAIT_PAUSE_LIMIT",
    "OPENCV_THREAD_POOL_ACTIVE_WAIT_THREADS_LIMIT",
    "OPENCV_THREAD_POOL_ACTIVE_WAIT_WORKER",
    "OPENCV_TRACE_DEPTH_OPENCV",
    "OPENCV_TRACE_MAX_CHILDREN",
    "OPENCV_TRACE_MAX_CHILDREN_OPENCV",
    "OPENCV_VIDEOIO_V4L_DEFAULT_HEIGHT",
    "OPENCV_VIDEOIO_V4L_DEFAULT_WIDTH",
    "OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT",
)
_SWITCHES = (
    "OPENCV_BUFFER_AREA_ALWAYS_SAFE",
    "OPENCV_DUMP_CONFIG",
    "OPENCV_DUMP_ERRORS",
    "OPENCV_ENABLE_MEMALIGN",
    "OPENCV_FFMPEG_DEBUG",
    "OPENCV_FFMPEG_IS_THREAD_SAFE",
    "OPENCV_FFMPEG_SKIP_LOG_CALLBACK",
    "OPENCV_GAUSSIANBLUR_CHECK_BITEXACT_KERNELS",
    "OPENCV_LOG_TIMESTAMP",
    "OPENCV_LOG_TIMESTAMP_NS",
    "OPENCV_OPENCL_CACHE_CLEANUP",
    "OPENCV_OPENCL_CACHE_ENABLE",
    "OPENCV_OPENCL_CACHE_LOCK_ENABLE",
    "OPENCV_OPENCL_CACHE_WRITE",
    "OPENCV_OPENCL_DISABLE_BUFFER_RECT_OPERATIONS",
    "OPENCV_OPENCL_ENABLE_MEM_USE_HOST_PTR",
    "OPENCV_OPENCL_VALIDATE_BINARY_PROGRAMS",
    "OPENCV_SKIP_CPU_BASELINE_CHECK",
    "OPENCV_TRACE",
    "OPENCV_TRACE_ITT_ENABLE",
    "OPENCV_TRACE_ITT_PARENT",
    "OPENCV_TRACE_ITT_SET_THREAD_NAME",
    "OPENCV_TRACE_SYNC_OPENCL",
    "OPENCV_VIDEOCAPTURE_DEBUG",
    "OPENCV_VIDEOIO_DEBUG",
    "OPENCV_VIDEOIO_V4L_RANGE_NORMALIZED",
    "OPENCV_VIDEOWRITER_DEBUG",
)
# What OpenCV accepts, and how a message calls it.
_NUMBER = (re.compile(r"[0-9]{1,18}(MB|Mb|mb|KB|Kb|kb)?"), "a number")
_SWITCH = (re.compile(r"0|1|[Tt]rue|TRUE|[Ff]alse|FALSE"), "0 or 1")
_TYPES = {**dict.fromkeys(_NUMBERS, _NUMBER), **dict.fromkeys(_SWITCHES, _SWITCH)}


def check_opencv_environment() -> None:
    """Check the variables that OpenCV reads as numbers and switches. Call before OpenCV is imported.

    Raises:
        InputError: one of them has another value.
    """
    for name, (accepted, kind) in _TYPES.items():
        value = os.environ.get(name)
        if value is not None and accepted.fullmatch(value) is None:
            raise InputError(f"the environment variable {name} is {value!r}, not {kind}: correct it, or unset it")
