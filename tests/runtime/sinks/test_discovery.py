"""Discovery messages, checked against the keys that Home Assistant documents for MQTT sensors.

Sources of the tables: https://www.home-assistant.io/integrations/sensor.mqtt (configuration variables) and the schemas
in `homeassistant/components/mqtt/` (`sensor.py`, `mixins.py`, `schemas.py`) of Home Assistant. Its package cannot be
used instead: it pins conflicting versions of common packages, and silently drops unknown keys.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from twincar_edge.runtime.sinks.discovery import camera_availability_topic, discovery, discovery_topic

_AVAILABILITY = {"availability", "availability_mode", "availability_template", "availability_topic"}
_PAYLOADS = {"payload_available", "payload_not_available"}
ENTITY = (
    _AVAILABILITY
    | _PAYLOADS
    | {"default_entity_id", "device", "enabled_by_default", "encoding", "entity_category", "entity_picture", "icon"}
    | {"json_attributes_template", "json_attributes_topic", "name", "origin", "qos", "unique_id"}
)
COMPONENTS = {
    "sensor": ENTITY
    | {"device_class", "expire_after", "force_update", "last_reset_value_template", "options", "state_class"}
    | {"state_topic", "suggested_display_precision", "unit_of_measurement", "value_template"},
}
DEVICE = {
    *("configuration_url", "connections", "hw_version", "identifiers", "manufacturer", "model", "model_id", "name"),
    *("serial_number", "suggested_area", "sw_version", "via_device"),
}
ORIGIN = {"name", "sw_version", "support_url"}
PLACE = {"topic", "value_template", *_PAYLOADS}


def faults(component: str, config: dict[str, Any]) -> list[str]:
    """Return what Home Assistant would ignore or reject in a discovery message."""
    found = [f"unknown key {key}" for key in config.keys() - COMPONENTS[component]]
    found += [f"unknown key device.{key}" for key in config["device"].keys() - DEVICE]
    found += [f"unknown key origin.{key}" for key in config["origin"].keys() - ORIGIN]
    places = config.get("availability", [])
    found += [f"unknown key availability.{key}" for place in places for key in place.keys() - PLACE]
    topics = [value for key, value in config.items() if key.endswith("_topic")] + [place["topic"] for place in places]
    found += [f"invalid topic {topic!r}" for topic in topics if not topic or re.search(r"[\0+#]", topic)]
    if "availability" in config and "availability_topic" in config:
        found.append("availability and availability_topic exclude each other")
    if config.get("availability_mode", "latest") not in ("all", "any", "latest"):
        found.append("invalid availability_mode")
    if not config["device"].get("identifiers") and not config["device"].get("connections"):
        found.append("a device needs identifiers or connections")
    if not re.fullmatch(rf"{component}\.[a-z0-9_]+", config.get("default_entity_id", f"{component}.x")):
        found.append("invalid default_entity_id")
    if "icon" in config and ":" not in config["icon"]:
        found.append("an icon has a prefix")
    return found


@pytest.mark.parametrize("camera", ["gate", "Gate 1/#", "Tor-Süd", "x" * 80])
@pytest.mark.parametrize("options", [{}, {"area": "Yard"}, {"per_camera": True}], ids=["plain", "area", "per camera"])
def test_discovery_messages_use_only_documented_keys_and_valid_values(camera: str, options: dict[str, Any]) -> None:
    config = discovery("site/box 7", camera, **options)
    assert faults("sensor", config) == []
    # `<discovery_prefix>/<component>/[<node_id>/]<object_id>/config`
    assert re.fullmatch(
        r"homeassistant/sensor/[A-Za-z0-9_-]+/last_vehicle/config",
        discovery_topic("homeassistant", "site/box 7", camera),
    )
    assert {"manufacturer", "model", "name", "sw_version"} <= config["device"].keys()
    assert config["device"].get("suggested_area") == options.get("area")


def test_the_checks_find_invalid_keys_topics_and_icons() -> None:
    wrong = discovery("box", "gate") | {"object_id": "gate", "availability_topic": "box/+", "icon": "car"}
    assert len(faults("sensor", wrong)) == 4


def test_a_sensor_is_available_while_both_box_and_camera_are() -> None:
    config = discovery("box", "gate", per_camera=True)
    assert config["availability_mode"] == "all"
    assert [place["topic"] for place in config["availability"]] == ["box/availability", "box/gate/availability"]
    assert camera_availability_topic("box", "gate") == "box/gate/availability"
    assert [place["topic"] for place in discovery("box", "gate")["availability"]] == ["box/availability"]
