"""Maps blueprints onto bodies: one mesh and one texture atlas per class, built once and cached."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.synthetic.addons import Piece, door_mirror, extra_pieces
from twincar_edge.synthetic.arrays import Floats, Image, f32
from twincar_edge.synthetic.body import (
    FACES,
    Block,
    BodyShape,
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
    """One class, ready to draw. All arrays are shared between images and read-only.

    `vertices` float32 [V, 3] meters; `uv` float32 [V, 2] atlas pixels; `triangles` int32 [T, 3],
    counter-clockwise from outside; `block` int32 [T] index into `block_names`; `side` float32 [T], -1 if the
    baked normals must be mirrored; `color` uint8 [H, W, 4] (B, G, R, paint), `finish` uint8 [H, W, 4] (gloss,
    solid, glow, part) and `normal` float32 [H, W, 4] (x, y, z, ambient light) are the atlas.
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
    color: Image
    finish: Image
    normal: Floats
    wheel: WheelFace
    wheel_is_part: bool


@lru_cache(maxsize=len(PAIRS))
def pair_models(pair_index: int) -> tuple[CarModel, CarModel]:
    """Build both twins of a pair together: comparing them shows the distinguishing part."""
    pair = PAIRS[pair_index]
    first_trim, second_trim = pair.trims()
    extras = {piece.block.name: piece for trim in pair.trims() for piece in extra_pieces(pair.shape, trim)}
    pieces = [Piece(lower_block(pair.shape)), Piece(cabin_block(pair.shape)), door_mirror(pair.shape), *extras.values()]
    sheets = {(piece.block.name, face): _sheet(piece.block, face) for piece in pieces for face in _faces(piece)}
    first, second = (_build(pair.shape, trim, pieces, sheets) for trim in pair.trims())
    names = {piece.block.name for piece in extra_pieces(pair.shape, first_trim)}
    others = {piece.block.name for piece in extra_pieces(pair.shape, second_trim)}
    part_blocks = tuple(sorted(names ^ others))
    differs = np.zeros(first.color.shape[:2], np.uint8)
    for one, two in ((first.color, second.color), (first.finish, second.finish)):
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
    """Return the model of one class."""
    return pair_models(label // 2)[label % 2]


def _faces(piece: Piece) -> tuple[str, ...]:
    return (*FACES, "right") if piece.block.mirrored else FACES


@dataclass(frozen=True)
class _Patch:
    vertices: Floats
    uv: Floats
    triangles: NDArray[np.int32]
    color: Image
    finish: Image
    normal: Floats


def _build(shape: BodyShape, trim: Trim, pieces: list[Piece], sheets: dict[tuple[str, str], _Sheet]) -> CarModel:
    boards = draw_boards(shape, trim)
    vertices, uvs, triangles, blocks, sides = [], [], [], [], []
    packer = _AtlasPacker()
    start = 0
    for index, piece in enumerate(pieces):
        for face in _faces(piece):
            patch = _bake(sheets[piece.block.name, face], piece, face, boards)
            offset = packer.put(patch)
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
    # The two halves of the two big blocks count as one block; small blocks are separate on each side.
    block = np.concatenate(blocks)
    block[block < 4] &= ~1
    color, finish, normal = packer.atlas()
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
        color=color,
        finish=finish,
        normal=normal,
        wheel=wheel_face(trim.wheels),
        wheel_is_part=False,
    )


@dataclass(frozen=True)
class _Sheet:
    """The undecorated surface of one face: dense `points` and `normals` [h, w, 3], and its coarse mesh."""

    points: Floats
    normals: Floats
    vertices: Floats
    uv: Floats
    triangles: NDArray[np.int32]


def _sheet(block: Block, face: str) -> _Sheet:
    along, up = _AXES.get(face, (0, 2))
    width, height = (max(6, round(2 * block.half_xyz[axis] * TEXELS_PER_M)) for axis in (along, up))
    # The surface is smooth: a third of the texels in each direction are enough.
    s, t = ((f32(np.arange(n)) + 0.5) / n * 2 - 1 for n in (max(3, width // 3), max(3, height // 3)))
    grid_s, grid_t = np.meshgrid(f32(s), f32(t))
    points = cv2.resize(block.surface(face, grid_s, grid_t), (width, height), interpolation=cv2.INTER_CUBIC)
    normals = f32(cv2.resize(block.normals(face, grid_s, grid_t), (width, height), interpolation=cv2.INTER_CUBIC))
    cuts_s, cuts_t = block.cuts(along), block.cuts(up)
    mesh_s, mesh_t = np.meshgrid(cuts_s, cuts_t)
    uv = np.stack([(mesh_s + 1) / 2 * width - 0.5, (mesh_t + 1) / 2 * height - 0.5], axis=-1)
    return _Sheet(
        points=f32(points),
        normals=f32(normals / np.linalg.norm(normals, axis=-1, keepdims=True)),
        vertices=block.surface(face, mesh_s, mesh_t).reshape(-1, 3),
        uv=f32(uv.reshape(-1, 2)),
        triangles=_triangles(len(cuts_t), len(cuts_s), flip=face in ("rear", "left")),
    )


def _bake(sheet: _Sheet, piece: Piece, face: str, boards: Boards) -> _Patch:
    along, up = _AXES.get(face, (0, 2))
    points, normals = sheet.points, sheet.normals.copy()
    height, width = points.shape[:2]
    finish = np.zeros((height, width, 4), np.uint8)
    if piece.material is not None:
        material = piece.material
        color = np.empty((height, width, 4), np.uint8)
        color[:] = (*material.bgr, round(255 * material.paint))
        finish[:] = (round(255 * material.gloss), 255, round(255 * material.glow), 0)
    else:
        board = boards[(piece.block.name, face)]
        place = board.pixels(points[..., [along, up]])
        color = np.asarray(_sample(board.color, place), np.uint8)
        finish[..., :3] = _sample(board.finish, place)
        slope_u = f32(cv2.Sobel(board.relief, cv2.CV_32F, 1, 0, ksize=3)) * np.float32(board.scale / 8)
        slope_v = f32(cv2.Sobel(board.relief, cv2.CV_32F, 0, 1, ksize=3)) * np.float32(-board.scale / 8)
        normals[..., along] -= np.clip(_sample(slope_u, place), -0.9, 0.9)
        normals[..., up] -= np.clip(_sample(slope_v, place), -0.9, 0.9)
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    # Less ambient light arrives near the ground.
    ambient = 0.36 + 0.64 * np.clip((points[..., 2] - 0.10) / 0.62, 0, 1)
    normal = f32(np.concatenate([normals, ambient[..., None]], axis=-1))
    return _Patch(sheet.vertices, sheet.uv, sheet.triangles, color, finish, normal)


def _sample(plane: Image | Floats, place: Floats) -> cv2.typing.MatLike:
    return cv2.remap(plane, place[..., 0], place[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _triangles(rows: int, columns: int, flip: bool) -> NDArray[np.int32]:
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)[None, :]).ravel()
    a, b, c, d = corner, corner + 1, corner + columns + 1, corner + columns
    triangles = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    return (triangles[:, ::-1] if flip else triangles).astype(np.int32)


class _AtlasPacker:
    """Packs patches row by row into one atlas, each with a border of repeated pixels against bleeding."""

    def __init__(self) -> None:
        self._x = self._y = self._row = 0
        self._placed: list[tuple[int, int, _Patch]] = []

    def put(self, patch: _Patch) -> Floats:
        height, width = patch.color.shape[0] + 2, patch.color.shape[1] + 2
        if self._x + width > _ATLAS_WIDTH:
            self._x, self._y, self._row = 0, self._y + self._row, 0
        place = (self._x + 1, self._y + 1)
        self._placed.append((*place, patch))
        self._x += width
        self._row = max(self._row, height)
        return np.array(place, np.float32)

    def atlas(self) -> tuple[Image, Image, Floats]:
        height = self._y + self._row
        color = np.zeros((height, _ATLAS_WIDTH, 4), np.uint8)
        finish = np.zeros((height, _ATLAS_WIDTH, 4), np.uint8)
        normal = np.zeros((height, _ATLAS_WIDTH, 4), np.float32)
        for x, y, patch in self._placed:
            h, w = patch.color.shape[:2]
            for plane, source in ((color, patch.color), (finish, patch.finish), (normal, patch.normal)):
                plane[y - 1 : y + h + 1, x - 1 : x + w + 1] = cv2.copyMakeBorder(
                    source, 1, 1, 1, 1, cv2.BORDER_REPLICATE
                )
        return color, finish, normal
