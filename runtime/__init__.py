"""Everything that runs on a camera box: model sessions, sources, tracking, visits, sinks and the watch loop."""
