"""Lays blueprints on bodies: one mesh and one texture atlas per class, made once and kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.synthetic.arrays import Floats, Image, f32
from twincar_edge.synthetic.blueprint import ALUMINIUM, BLACK, GLOSS_BLACK, PAINT, Material
from twincar_edge.synthetic.body import (
    FACES,
    Block,
    BodyShape,
    box_block,
    cabin_block,
    lower_block,
)
from twincar_edge.synthetic.catalog import PAIRS, Trim
from twincar_edge.synthetic.panels import Boards, draw_boards
from twincar_edge.synthetic.wheels import WheelFace, wheel_face

TEXELS_PER_M = 150.0
_AXES = {"front": (1, 2), "rear": (1, 2), "left": (0, 2), "top": (0, 1)}
_ATLAS_WIDTH = 1024


@dataclass(frozen=True)
class CarModel:
    """One class, ready to be drawn. All arrays are shared between images: read only.

    ``vertices`` float32 [V, 3] metres; ``uv`` float32 [V, 2] atlas pixels; ``triangles`` int32 [T, 3], counter-clockwise
    from outside; ``block`` int32 [T] index into ``block_names``; ``side`` float32 [T], -1 where the baked normals must be
    mirrored; ``colour`` uint8 [H, W, 4] (B, G, R, paint), ``finish`` uint8 [H, W, 4] (gloss, solid, glow, part) and
    ``normal`` float32 [H, W, 4] (x, y, z, ambient light) are the atlas.
    """

    shape: BodyShape
    vertices: Floats
    uv: Floats
    triangles: NDArray[np.int32]
    block: NDArray[np.int32]
    side: Floats
    block_names: tuple[str, ...]
    part_blocks: tuple[str, ...]
    ghost_blocks: tuple[str, ...]
    colour: Image
    finish: Image
    normal: Floats
    wheel: WheelFace
    wheel_is_part: bool


@dataclass(frozen=True)
class _Piece:
    """One block with what it is made of: blueprints per face, or one material all over."""

    block: Block
    material: Material | None = None


@lru_cache(maxsize=len(PAIRS))
def pair_models(pair_index: int) -> tuple[CarModel, CarModel]:
    """Both twins of a pair; made together, because the telling part is found by comparing them."""
    pair = PAIRS[pair_index]
    first_trim, second_trim = pair.trims()
    extras = {piece.block.name: piece for trim in pair.trims() for piece in _extras(pair.shape, trim)}
    pieces = [_Piece(lower_block(pair.shape)), _Piece(cabin_block(pair.shape)), _mirror(pair.shape), *extras.values()]
    sheets = {(piece.block.name, face): _sheet(piece.block, face) for piece in pieces for face in _faces(piece)}
    first, second = (_build(pair.shape, trim, pieces, sheets) for trim in pair.trims())
    names = {piece.block.name for piece in _extras(pair.shape, first_trim)}
    others = {piece.block.name for piece in _extras(pair.shape, second_trim)}
    part_blocks = tuple(sorted(names ^ others))
    differs = np.zeros(first.colour.shape[:2], np.uint8)
    for one, two in ((first.colour, second.colour), (first.finish, second.finish)):
        differs |= (cv2.absdiff(one, two).max(axis=2) > 12).astype(np.uint8) * 255
    differs = cv2.morphologyEx(differs, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8)).astype(np.uint8)
    for model in (first, second):
        model.finish[..., 3] = differs
    wheel_part = pair.part == "wheels"
    return (
        replace(first, part_blocks=part_blocks, ghost_blocks=tuple(others - names), wheel_is_part=wheel_part),
        replace(second, part_blocks=part_blocks, ghost_blocks=tuple(names - others), wheel_is_part=wheel_part),
    )


def car_model(label: int) -> CarModel:
    """The model of one class."""
    return pair_models(label // 2)[label % 2]


def _mirror(shape: BodyShape) -> _Piece:
    cabin = shape.cabin
    x = cabin.base_front - 0.42 * (cabin.base_front - cabin.roof_front) - 0.05
    z = float(shape.shoulder_z(f32([x]))[0]) + 0.10
    y = cabin.base_half + 0.09

    def bend(px: Floats, py: Floats, pz: Floats) -> tuple[Floats, Floats, Floats]:
        out = (py - y) / 0.12
        return px - 0.05 * np.maximum(out, 0), py, pz + 0.012 * out

    return _Piece(box_block("mirror", (x, y, z), (0.065, 0.125, 0.08), 0.06, bend), PAINT)


def _extras(shape: BodyShape, trim: Trim) -> list[_Piece]:
    return [*RAILS[trim.roof_rails](shape), *SPOILERS[trim.spoiler](shape)]


def _nothing(shape: BodyShape) -> list[_Piece]:
    """No such part."""
    return []


def _raised_rails(shape: BodyShape) -> list[_Piece]:
    """Aluminium bars on three feet."""
    cabin = shape.cabin
    front, rear = cabin.roof_front - 0.10, cabin.roof_rear + 0.12
    y, z = cabin.roof_half * 0.88, cabin.roof_z - 0.035
    middle, half = (front + rear) / 2, (front - rear) / 2

    def bend(px: Floats, py: Floats, pz: Floats) -> tuple[Floats, Floats, Floats]:
        end = np.abs((px - middle) / half)
        return px, py - 0.03 * end**4, pz - 0.03 * end**2 - 0.045 * end**12

    rail = box_block("rail", (middle, y, z + 0.028), (half, 0.022, 0.020), 0.018, bend, grid_xyz=(12, 1, 1))
    feet = [
        box_block(f"rail_foot_{k}", (x, y, z - 0.005), (0.06, 0.018, 0.035), 0.012)
        for k, x in enumerate((front - 0.06, middle, rear + 0.06))
    ]
    return [*[_Piece(foot, BLACK) for foot in feet], _Piece(rail, ALUMINIUM)]


def _wing(shape: BodyShape) -> list[_Piece]:
    """A wing on two posts at the tail's edge."""
    x = -shape.length / 2 + 0.20
    z = float(shape.shoulder_z(f32([x]))[0])
    half = shape.width / 2 * 0.80

    def bend(px: Floats, py: Floats, pz: Floats) -> tuple[Floats, Floats, Floats]:
        out = np.abs(py / half)
        return px + 0.05 * out**2, py, pz - 0.06 * out**6 - 0.12 * (px - x)

    blade = box_block("wing", (x, 0.0, z + 0.20), (0.15, half, 0.022), 0.02, bend, mirrored=False, grid_xyz=(2, 8, 1))
    post = box_block("wing_post", (x, half * 0.62, z + 0.09), (0.07, 0.022, 0.11), 0.02)
    return [_Piece(post, GLOSS_BLACK), _Piece(blade, GLOSS_BLACK)]


RAILS = {"none": _nothing, "raised": _raised_rails}
SPOILERS = {"none": _nothing, "wing": _wing}


def _faces(piece: _Piece) -> tuple[str, ...]:
    return (*FACES, "right") if piece.block.mirrored else FACES


@dataclass(frozen=True)
class _Patch:
    vertices: Floats
    uv: Floats
    triangles: NDArray[np.int32]
    colour: Image
    finish: Image
    normal: Floats


def _build(shape: BodyShape, trim: Trim, pieces: list[_Piece], sheets: dict[tuple[str, str], _Sheet]) -> CarModel:
    boards = draw_boards(shape, trim)
    vertices, uvs, triangles, blocks, sides = [], [], [], [], []
    shelf = _Shelf()
    start = 0
    for index, piece in enumerate(pieces):
        for face in _faces(piece):
            patch = _bake(sheets[piece.block.name, face], piece, face, boards)
            offset = shelf.put(patch)
            for sign in (1.0, -1.0):
                if sign < 0 and not (piece.block.mirrored or face == "left"):
                    continue
                vertices.append(patch.vertices * f32([1, sign, 1]))
                uvs.append(patch.uv + offset)
                corners = patch.triangles if sign > 0 else patch.triangles[:, ::-1]
                triangles.append(corners + start)
                blocks.append(np.full(len(corners), 2 * index + (sign < 0), np.int32))
                sides.append(np.full(len(corners), sign, np.float32))
                start += len(patch.vertices)
    names = tuple(name for piece in pieces for name in (piece.block.name, piece.block.name + "_r"))
    # Left and right halves of the two big blocks belong together; only small blocks have a twin of their own.
    block = np.concatenate(blocks)
    block[block < 4] &= ~1
    colour, finish, normal = shelf.atlas()
    return CarModel(
        shape=shape,
        vertices=np.concatenate(vertices),
        uv=np.concatenate(uvs).astype(np.float32),
        triangles=np.concatenate(triangles).astype(np.int32),
        block=block,
        side=np.concatenate(sides),
        block_names=names,
        part_blocks=(),
        ghost_blocks=(),
        colour=colour,
        finish=finish,
        normal=normal,
        wheel=wheel_face(trim.wheels),
        wheel_is_part=False,
    )


@dataclass(frozen=True)
class _Sheet:
    """The bare metal of one face: dense ``points`` and ``normals`` [h, w, 3], and its coarse mesh."""

    points: Floats
    normals: Floats
    vertices: Floats
    uv: Floats
    triangles: NDArray[np.int32]


def _sheet(block: Block, face: str) -> _Sheet:
    along, up = _AXES.get(face, (0, 2))
    size = [max(6, round(2 * block.half_xyz[axis] * TEXELS_PER_M)) for axis in (along, up)]
    s, t = (((np.arange(n, dtype=np.float32) + 0.5) / n * 2 - 1).astype(np.float32) for n in size)
    grid_s, grid_t = np.meshgrid(s, t)
    height, width = grid_s.shape
    cuts_s, cuts_t = block.cuts(along), block.cuts(up)
    mesh_s, mesh_t = np.meshgrid(cuts_s, cuts_t)
    uv = np.stack([(mesh_s + 1) / 2 * width - 0.5, (mesh_t + 1) / 2 * height - 0.5], axis=-1)
    return _Sheet(
        points=block.surface(face, grid_s, grid_t),
        normals=block.normals(face, grid_s, grid_t),
        vertices=block.surface(face, mesh_s, mesh_t).reshape(-1, 3),
        uv=uv.reshape(-1, 2).astype(np.float32),
        triangles=_triangles(len(cuts_t), len(cuts_s), flip=face in ("rear", "left")),
    )


def _bake(sheet: _Sheet, piece: _Piece, face: str, boards: Boards) -> _Patch:
    along, up = _AXES.get(face, (0, 2))
    points, normals = sheet.points, sheet.normals.copy()
    height, width = points.shape[:2]
    finish = np.zeros((height, width, 4), np.uint8)
    if piece.material is not None:
        material = piece.material
        colour = np.empty((height, width, 4), np.uint8)
        colour[:] = (*material.bgr, round(255 * material.paint))
        finish[:] = (round(255 * material.gloss), 255, round(255 * material.glow), 0)
    else:
        board = boards[(piece.block.name, face)]
        place = board.pixels(points[..., [along, up]])
        colour = np.asarray(_sample(board.colour, place), np.uint8)
        finish[..., :3] = _sample(board.finish, place)
        slope_u = f32(cv2.Sobel(board.relief, cv2.CV_32F, 1, 0, ksize=3)) * np.float32(board.scale / 8)
        slope_v = f32(cv2.Sobel(board.relief, cv2.CV_32F, 0, 1, ksize=3)) * np.float32(-board.scale / 8)
        normals[..., along] -= np.clip(_sample(slope_u, place), -0.9, 0.9)
        normals[..., up] -= np.clip(_sample(slope_v, place), -0.9, 0.9)
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    # The road takes light away from below, and so does the ground's own shade under the sills.
    ambient = 0.36 + 0.64 * np.clip((points[..., 2] - 0.10) / 0.62, 0, 1)
    normal = f32(np.concatenate([normals, ambient[..., None]], axis=-1))
    return _Patch(sheet.vertices, sheet.uv, sheet.triangles, colour, finish, normal)


def _sample(plane: Image | Floats, place: Floats) -> cv2.typing.MatLike:
    return cv2.remap(plane, place[..., 0], place[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _triangles(rows: int, columns: int, flip: bool) -> NDArray[np.int32]:
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)[None, :]).ravel()
    a, b, c, d = corner, corner + 1, corner + columns + 1, corner + columns
    triangles = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    return (triangles[:, ::-1] if flip else triangles).astype(np.int32)


class _Shelf:
    """Packs patches row by row into one atlas, each with a rim of repeated pixels against bleeding."""

    def __init__(self) -> None:
        self._x = self._y = self._row = 0
        self._placed: list[tuple[int, int, _Patch]] = []

    def put(self, patch: _Patch) -> Floats:
        height, width = patch.colour.shape[0] + 2, patch.colour.shape[1] + 2
        if self._x + width > _ATLAS_WIDTH:
            self._x, self._y, self._row = 0, self._y + self._row, 0
        place = (self._x + 1, self._y + 1)
        self._placed.append((*place, patch))
        self._x += width
        self._row = max(self._row, height)
        return np.array(place, np.float32)

    def atlas(self) -> tuple[Image, Image, Floats]:
        height = self._y + self._row
        colour = np.zeros((height, _ATLAS_WIDTH, 4), np.uint8)
        finish = np.zeros((height, _ATLAS_WIDTH, 4), np.uint8)
        normal = np.zeros((height, _ATLAS_WIDTH, 4), np.float32)
        for x, y, patch in self._placed:
            h, w = patch.colour.shape[:2]
            for plane, source in ((colour, patch.colour), (finish, patch.finish), (normal, patch.normal)):
                plane[y - 1 : y + h + 1, x - 1 : x + w + 1] = cv2.copyMakeBorder(
                    source, 1, 1, 1, 1, cv2.BORDER_REPLICATE
                )
        return colour, finish, normal
