"""Topics and messages of Home Assistant's MQTT discovery.

Source: https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from twincar_edge._version import __version__

ONLINE, OFFLINE = "online", "offline"


def topic_part(name: str) -> str:
    """Return a camera's name as one topic level: `/`, `+`, `#` and other special characters become `_`.

    A modified name gets a digest of the original, so that two cameras never share a topic.
    """
    part = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64]
    return part if part == name and part else f"{part}-{hashlib.sha256(name.encode('utf-8')).hexdigest()[:6]}"


def camera_availability_topic(topic: str, camera: str) -> str:
    """Return the availability topic of a camera."""
    return f"{topic}/{topic_part(camera)}/availability"


def discovery_topic(prefix: str, topic: str, camera: str) -> str:
    """Return the topic of a camera sensor's configuration."""
    return f"{prefix}/sensor/{_node(topic, camera)}/last_vehicle/config"


def discovery(topic: str, camera: str, *, area: str | None = None, per_camera: bool = False) -> dict[str, Any]:
    """Return a camera sensor's configuration.

    Args:
        topic: prefix of all topics.
        camera: the camera's name.
        area: the area that Home Assistant suggests for the device.
        per_camera: the sensor is available only while both the box and the camera are.
    """
    node = _node(topic, camera)
    last_vehicle = f"{topic}/{topic_part(camera)}/last_vehicle"
    topics = [f"{topic}/availability", *([camera_availability_topic(topic, camera)] if per_camera else [])]
    device = {
        "identifiers": [node],
        "name": f"twincar-edge {camera}",
        "manufacturer": "twincar-edge",
        "model": "camera box",
        "sw_version": __version__,
        **({} if area is None else {"suggested_area": area}),
    }
    return {
        "name": "Last vehicle",
        "unique_id": f"{node}_last_vehicle",
        # Entity IDs allow only lowercase letters, digits and underscores. Versions before 2025.10 ignore this key.
        "default_entity_id": f"sensor.{re.sub(r'[^a-z0-9_]', '_', node.lower())}_last_vehicle",
        "icon": "mdi:car",
        "state_topic": last_vehicle,
        "value_template": "{{ value_json.name[:255] }}",
        "json_attributes_topic": last_vehicle,
        "availability": [
            {"topic": name, "payload_available": ONLINE, "payload_not_available": OFFLINE} for name in topics
        ],
        "availability_mode": "all",
        "device": device,
        "origin": {"name": "twincar-edge", "sw_version": __version__},
    }


def _node(topic: str, camera: str) -> str:
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', topic)}_{topic_part(camera)}"
