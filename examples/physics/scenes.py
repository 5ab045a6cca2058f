"""Scenes of one or two bodies under gravity, moved by pymunk, and their captions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import pymunk
import torch

SIZE = 64  # pixels, height and width
GROUND = 52.0  # pixels from the top
GRAVITY = 0.05  # pixels a frame, a frame: slow enough for latent frames of four
SUBSTEPS = 4  # of the simulation, a frame
LATENT_FRAMES = 30  # of a training clip: five chunks of MAGI-1, five more than a segment of SkyReels-V2

COLOURS = ("red", "blue", "yellow", "white")
ACTIONS = {"ball": ("bounces", "rolls"), "box": ("tumbles", "slides"), "wheel": ("rolls",), "pendulum": ("swings",)}
GROUNDS = ("grass", "sand", "tiles")
LIGHTS = ("day", "night")
CAMERAS = {"left": -0.4, "right": 0.4, "": 0.0}  # pixels a frame that the camera travels


@dataclass(frozen=True)
class Body:
    """What moves: lengths in pixels, velocity in pixels a frame, angle and spin in radians (a frame); y points down."""

    kind: str
    action: str
    colour: str
    radius: float
    centre: tuple[float, float]
    velocity: tuple[float, float]
    angle: float
    spin: float
    pivot: tuple[float, float] | None = None  # of a pendulum


@dataclass(frozen=True)
class Scene:
    """Bodies between two walls that travel with the camera, over a ground that stays."""

    bodies: tuple[Body, ...]
    ground: str
    light: str
    camera: str

    @property
    def caption(self) -> str:
        words = [f"a {body.colour} {body.kind} {body.action}" for body in self.bodies]
        place = f"on {self.ground} by {self.light}" + (f" moving {self.camera}" if self.camera else "")
        return f"{' and '.join(words)}, {place}"

    @property
    def in_order(self) -> bool:
        """Whether the body that the caption names first begins in the left half."""
        first = self.bodies[0]
        return (first.pivot or first.centre)[0] < SIZE / 2


@dataclass(frozen=True)
class Track:
    """Centres [T, 2] in pixels and angles [T] in radians of one body."""

    body: Body
    centres: torch.Tensor
    angles: torch.Tensor


def random_scene(seed: int) -> Scene:
    """Scene number `seed`: one body in a third of them, otherwise two of different kind and colour."""
    rng = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=rng).item()

    def choose(options):
        return list(options)[int(torch.randint(len(options), (), generator=rng))]

    kinds = torch.randperm(len(ACTIONS), generator=rng).tolist()
    colours = torch.randperm(len(COLOURS), generator=rng).tolist()
    count = 1 if uniform(0, 1) < 1 / 3 else 2
    left = uniform(0, 1) < 0.5  # which half the first body begins in
    bodies = []
    for number in range(count):
        kind, colour = list(ACTIONS)[kinds[number]], COLOURS[colours[number]]
        x = uniform(13, 25) if left == (number == 0) else uniform(39, 51)
        bodies.append(_body(kind, choose(ACTIONS[kind]), colour, x, uniform))
    return Scene(tuple(bodies), choose(GROUNDS), choose(LIGHTS), choose(CAMERAS))


def _body(kind: str, action: str, colour: str, x: float, uniform) -> Body:
    radius = uniform(8.0, 10.0)
    sign = 1.0 if uniform(0, 1) < 0.5 else -1.0
    angle, spin = uniform(0, 2 * math.pi), 0.0
    if kind == "pendulum":
        radius, length, swing = uniform(6.5, 7.5), uniform(24, 28), sign * uniform(0.5, 0.8)
        pivot = (0.5 * (x + SIZE / 2), 2.0)
        centre = (pivot[0] + length * math.sin(swing), pivot[1] + length * math.cos(swing))
        return Body(kind, action, colour, radius, centre, (0.0, 0.0), 0.0, 0.0, pivot)
    if action in ("rolls", "slides"):
        angle = angle if kind != "box" else 0.0
        reach = radius if kind != "box" else 0.8 * radius
        return Body(kind, action, colour, radius, (x, GROUND - reach), (sign * uniform(0.5, 0.9), 0.0), angle, spin)
    spin = sign * uniform(0.03, 0.07) if kind == "box" else 0.0
    centre, velocity = (x, uniform(14, 26)), (sign * uniform(0.2, 0.6), 0.0)
    return Body(kind, action, colour, radius, centre, velocity, angle, spin)


def simulate(scene: Scene, num_frames: int) -> list[Track]:
    """Let pymunk move the bodies, without friction and almost without loss, so that a film never comes to rest."""
    space = pymunk.Space()
    space.gravity = (0.0, GRAVITY)
    space.iterations = 20
    corners = ((0.0, -200.0), (0.0, GROUND), (float(SIZE), GROUND), (float(SIZE), -200.0))
    for start, end in pairwise(corners):
        wall = pymunk.Segment(space.static_body, start, end, 0.0)
        wall.elasticity, wall.friction = 0.99, 0.0
        space.add(wall)
    moving = [_add(space, body) for body in scene.bodies]
    centres = torch.empty(len(moving), num_frames, 2)
    angles = torch.empty(len(moving), num_frames)
    for frame in range(num_frames):
        for number, body in enumerate(moving):
            centres[number, frame] = torch.tensor(tuple(body.position))
            angles[number, frame] = body.angle
        for _ in range(SUBSTEPS):
            space.step(1 / SUBSTEPS)
    tracks = []
    for number, body in enumerate(scene.bodies):
        if body.action == "rolls":  # over the ground, not over the picture
            way = centres[number, :, 0] + CAMERAS[scene.camera] * torch.arange(num_frames)
            angles[number] = body.angle + (way - way[0]) / body.radius
        tracks.append(Track(body, centres[number], angles[number]))
    return tracks


def _add(space: pymunk.Space, body: Body) -> pymunk.Body:
    if body.kind == "box":
        side = 1.6 * body.radius
        moment = pymunk.moment_for_box(1.0, (side, side))
    else:
        moment = pymunk.moment_for_circle(1.0, 0, body.radius)
    slides = body.action == "slides"
    moving = pymunk.Body(1.0, float("inf") if slides else moment)
    moving.position, moving.velocity = body.centre, body.velocity
    moving.angle, moving.angular_velocity = body.angle, body.spin
    if body.kind == "box":
        shape: pymunk.Shape = pymunk.Poly.create_box(moving, (side, side))
    else:
        shape = pymunk.Circle(moving, body.radius)
    shape.elasticity, shape.friction = 1.0, 0.0
    space.add(moving, shape)
    if body.pivot is not None:  # it hangs in front of the others: a blow would throw it out of the picture
        shape.filter = pymunk.ShapeFilter(mask=0)
        space.add(pymunk.PinJoint(space.static_body, moving, body.pivot, (0.0, 0.0)))
    return moving
