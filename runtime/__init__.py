"""Everything that runs on a camera box: model sessions, sources, tracking, visits, sinks and the watch loop."""

from twincar_edge.opencv_environment import check_opencv_environment

check_opencv_environment()  # before a module of this package imports OpenCV
