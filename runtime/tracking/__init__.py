"""Which boxes of successive frames are one vehicle, and when it has gone."""
