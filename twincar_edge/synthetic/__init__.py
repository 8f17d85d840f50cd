"""The twin-car generator: parametric cars in pairs that differ in one part, as pictures, data sets and gate clips."""

from twincar_edge.synthetic.catalog import CLASS_NAMES, TWIN_PARTS, twin_of
from twincar_edge.synthetic.clip import gate_clip, write_gate_clip
from twincar_edge.synthetic.images import TwinCarImage, draw_twin_car, twin_car_images, write_image_folder
from twincar_edge.synthetic.truth import GatePass, GateTruth

__all__ = [
    "CLASS_NAMES",
    "TWIN_PARTS",
    "GatePass",
    "GateTruth",
    "TwinCarImage",
    "draw_twin_car",
    "gate_clip",
    "twin_car_images",
    "twin_of",
    "write_gate_clip",
    "write_image_folder",
]
