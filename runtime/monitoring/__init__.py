"""How a running loop is, for people, Prometheus, Docker and systemd."""
