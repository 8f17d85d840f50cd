"""The camera box: sessions, the classifier, sources, locating, tracking, visits, sinks and the watch loop."""
