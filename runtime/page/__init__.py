"""The web page of a box: its cameras, its visits, and why. The only part that needs the extra `page`."""
