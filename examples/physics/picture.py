"""Paint a scene: sky and hills, textured ground that the camera passes, shadows, and shaded bodies."""

from __future__ import annotations

import math

import torch

from .scenes import CAMERAS, GROUND, SIZE, Scene, Track, random_scene, simulate

PAINT = {
    "red": (0.92, 0.16, 0.12),
    "blue": (0.16, 0.32, 0.95),
    "yellow": (0.98, 0.85, 0.12),
    "white": (0.96, 0.96, 0.96),
}
SKY = {"day": ((0.42, 0.66, 0.95), (0.80, 0.90, 0.98)), "night": ((0.03, 0.03, 0.12), (0.14, 0.12, 0.30))}
HILLS = {"day": (0.42, 0.60, 0.58), "night": (0.08, 0.10, 0.20)}
SOIL = {  # light and dark
    "grass": ((0.36, 0.66, 0.22), (0.20, 0.45, 0.14)),
    "sand": ((0.88, 0.74, 0.46), (0.72, 0.56, 0.32)),
    "tiles": ((0.72, 0.70, 0.70), (0.42, 0.40, 0.42)),
}
DARK = {"day": 1.0, "night": 0.7}  # how much of the sun is left


def film(scene: Scene, num_frames: int, start: int = 0) -> torch.Tensor:
    """Frames start .. start + num_frames - 1 as [3, num_frames, SIZE, SIZE] in [-1, 1]."""
    tracks = [Track(t.body, t.centres[start:], t.angles[start:]) for t in simulate(scene, start + num_frames)]
    grid = torch.arange(SIZE) + 0.5
    x, y = grid[None, None, :], grid[None, :, None]
    scroll = CAMERAS[scene.camera] * torch.arange(start, start + num_frames).float()[:, None, None]
    video = _sky(scene, x, y, scroll)
    video = _ground(video, scene, x, y, scroll)
    for track in tracks:
        video = _shadow(video, track, x, y)
    for track in tracks:
        video = _body(video, track, x, y, DARK[scene.light])
    return video.clamp(0, 1) * 2 - 1


def drawn_scene(seed: int, num_frames: int, start: int = 0) -> tuple[str, torch.Tensor]:
    """The caption of scene number `seed`, and its frames as `film` draws them."""
    scene = random_scene(seed)
    return scene.caption, film(scene, num_frames, start)


def _colour(rgb) -> torch.Tensor:
    return torch.tensor(rgb)[:, None, None, None]


def _over(video: torch.Tensor, colour: torch.Tensor, cover: torch.Tensor) -> torch.Tensor:
    """Paint [3, T or 1, ...] over the video where cover [T, H, W] is 1."""
    return video + (colour - video) * cover


def _sky(scene: Scene, x, y, scroll) -> torch.Tensor:
    top, low = (_colour(rgb) for rgb in SKY[scene.light])
    video = (top + (low - top) * (y / GROUND).clamp(0, 1)).expand(3, len(scroll), SIZE, SIZE)
    way = x + 0.5 * scroll  # far things pass by more slowly
    ridge = 41 + 4 * torch.sin(2 * math.pi * way / 64) + 2 * torch.sin(2 * math.pi * way / 32 + 1)
    return _over(video, _colour(HILLS[scene.light]), (y - ridge + 0.5).clamp(0, 1))


def _ground(video, scene: Scene, x, y, scroll) -> torch.Tensor:
    way, depth = x + scroll, y - GROUND
    if scene.ground == "tiles":  # bricks, every second row shifted by half a tile
        row = (depth / 6).floor()
        across = torch.remainder(way + 6 * torch.remainder(row, 2), 12)
        joint = torch.minimum(torch.minimum(across, 12 - across), torch.remainder(depth, 6))
        shade = (1.5 - joint).clamp(0, 1)
    elif scene.ground == "sand":  # ripples
        shade = 0.5 + 0.5 * torch.sin(2 * math.pi * (way / 16 + depth / 8) + torch.sin(2 * math.pi * way / 32))
    else:  # tufts
        height = 5 + 3 * torch.sin(2 * math.pi * way / 21.333)
        shade = (torch.remainder(way, 8) / 4 - 1).abs() * (depth < height).float() + (depth >= height).float()
    light, dark = (_colour(rgb) * DARK[scene.light] for rgb in SOIL[scene.ground])
    return _over(video, light + (dark - light) * shade, (depth + 0.5).clamp(0, 1))


def _shadow(video, track: Track, x, y) -> torch.Tensor:
    across = (x - track.centres[:, None, None, 0]) / track.body.radius
    reach = torch.sqrt(across**2 + ((y - GROUND - 3.0) / 2.5) ** 2)
    high = (GROUND - track.body.radius - track.centres[:, 1]).clamp_min(0)[:, None, None]
    return _over(video, torch.zeros(3, 1, 1, 1), 0.45 * (1.3 - reach).clamp(0, 1) / (1 + high / 16))


def _body(video, track: Track, x, y, light: float) -> torch.Tensor:
    body, paint = track.body, _colour(PAINT[track.body.colour]) * (0.5 + 0.5 * light)
    dx, dy = x - track.centres[:, None, None, 0], y - track.centres[:, None, None, 1]
    cos, sin = torch.cos(track.angles)[:, None, None], torch.sin(track.angles)[:, None, None]
    u, v = cos * dx + sin * dy, cos * dy - sin * dx  # in the body's own axes
    far = torch.sqrt(dx * dx + dy * dy)
    if body.pivot is not None:
        video = _over(video, _colour((0.25, 0.18, 0.12)), _rod(track, x, y))
    if body.kind == "box":
        edge = torch.maximum(u.abs(), v.abs()) - 0.8 * body.radius
        rim = ((edge + 2.0).clamp(0, 1) + (1.6 - (u.abs() - v.abs()).abs()).clamp(0, 1)).clamp(0, 1)
        return _over(video, paint * (1 - 0.55 * rim), (0.5 - edge).clamp(0, 1))
    if body.kind == "wheel":
        rim = 0.5 - ((far - 0.84 * body.radius).abs() - 0.16 * body.radius)
        spokes = torch.minimum(u.abs(), v.abs())
        return _over(video, paint, torch.maximum(rim, (1.6 - spokes) * (far < body.radius)).clamp(0, 1))
    # A sphere, lit from the upper left; a ball has a band across it, so that its turning is seen.
    nz = torch.sqrt((1 - (far / body.radius) ** 2).clamp_min(0))
    lit = ((-0.45 * dx - 0.6 * dy) / body.radius + 0.66 * nz).clamp_min(0)
    shade = 0.35 + 0.65 * lit
    if body.kind == "ball":
        shade = shade * (1 - 0.5 * (0.28 * body.radius + 0.5 - v.abs()).clamp(0, 1))
    return _over(video, paint * shade + 0.5 * lit**12, (body.radius + 0.5 - far).clamp(0, 1))


def _rod(track: Track, x, y) -> torch.Tensor:
    """[T, H, W] cover of the line from the pivot to the centre, two pixels wide."""
    px, py = track.body.pivot
    ax, ay = (track.centres[:, None, None, i] - p for i, p in ((0, px), (1, py)))
    along = (((x - px) * ax + (y - py) * ay) / (ax * ax + ay * ay)).clamp(0, 1)
    return (1.5 - torch.sqrt((x - px - along * ax) ** 2 + (y - py - along * ay) ** 2)).clamp(0, 1)
