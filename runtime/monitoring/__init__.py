"""The status of a running loop, for users, Prometheus, Docker and systemd."""
