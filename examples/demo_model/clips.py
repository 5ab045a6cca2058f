"""Procedural clips: coloured shapes that move in straight lines and bounce off the border, with their prompts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

SIZE = 64  # pixels, height and width
BACKGROUND = 0.08  # grey level in [0, 1]

COLOURS = {
    "red": (0.95, 0.15, 0.12),
    "green": (0.15, 0.80, 0.25),
    "blue": (0.15, 0.35, 0.98),
    "yellow": (0.98, 0.88, 0.15),
    "magenta": (0.90, 0.20, 0.85),
    "white": (0.97, 0.97, 0.97),
}
SHAPES = ("disc", "square", "ring", "triangle")
RADII = {"small": (6.5, 8.0), "big": (10.0, 12.5)}  # pixels
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
SPEED = (0.45, 0.95)  # pixels a frame
HELD_OUT = 50_000_000  # number of the first clip that no model is trained on
Draw = Callable[[int, int, int], tuple[str, torch.Tensor]]  # a clip's seed, its number of frames, the first of them


@dataclass(frozen=True)
class Shape:
    """One moving shape. Centre and radius in pixels, velocity in pixels a frame, y pointing down."""

    kind: str
    colour: str
    radius: float
    centre: tuple[float, float]
    velocity: tuple[float, float]
    words: str


def signed_distance(kind: str, dx: torch.Tensor, dy: torch.Tensor, radius: float) -> torch.Tensor:
    """Distance in pixels to the outline, negative inside; dx, dy: offsets from the centre, any equal shape."""
    if kind == "disc":
        return (dx * dx + dy * dy).sqrt() - radius
    if kind == "ring":
        return ((dx * dx + dy * dy).sqrt() - 0.74 * radius).abs() - 0.26 * radius
    if kind == "square":
        return torch.maximum(dx.abs(), dy.abs()) - 0.86 * radius
    if kind == "triangle":
        slope = math.sqrt(3.0) / 2
        return torch.maximum(dy - 0.7 * radius, dx.abs() * slope - 0.5 * dy - 0.55 * radius)
    raise ValueError(f"unknown shape {kind!r}, known: {', '.join(SHAPES)}")


def bounce(position: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Fold an unbounded coordinate into [low, high], as a ball between two walls."""
    span = high - low
    return low + (torch.remainder(position - low, 2 * span) - span).abs().neg() + span


def draw(shapes: list[Shape], num_frames: int, start: int = 0) -> torch.Tensor:
    """Draw frames start .. start + num_frames - 1 as [3, num_frames, SIZE, SIZE] in [-1, 1]."""
    grid = torch.arange(SIZE) + 0.5
    time = torch.arange(start, start + num_frames).float()
    video = torch.full((3, num_frames, SIZE, SIZE), BACKGROUND)
    for shape in shapes:
        margin = shape.radius + 1
        x = bounce(shape.centre[0] + shape.velocity[0] * time, margin, SIZE - margin)
        y = bounce(shape.centre[1] + shape.velocity[1] * time, margin, SIZE - margin)
        dx = (grid[None, None, :] - x[:, None, None]).expand(-1, SIZE, -1)
        dy = (grid[None, :, None] - y[:, None, None]).expand(-1, -1, SIZE)
        cover = (0.5 - signed_distance(shape.kind, dx, dy, shape.radius)).clamp(0, 1)
        colour = torch.tensor(COLOURS[shape.colour])[:, None, None, None]
        video = torch.lerp(video, colour.expand_as(video), cover.expand_as(video))
    return video * 2 - 1


def random_shape(generator: torch.Generator, kind: str, colour: str) -> Shape:
    """A shape with random size, place and velocity; its words name the size and direction only now and then."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    size = "big" if uniform(0, 1) < 0.5 else "small"
    radius = uniform(*RADII[size])
    margin = radius + 1
    centre = (uniform(margin, SIZE - margin), uniform(margin, SIZE - margin))
    speed = uniform(*SPEED)
    words = ["a", colour, kind]
    if uniform(0, 1) < 0.5:
        words.insert(1, size)
    if uniform(0, 1) < 0.5:
        direction = list(DIRECTIONS)[int(uniform(0, 4)) % 4]
        velocity = (DIRECTIONS[direction][0] * speed, DIRECTIONS[direction][1] * speed)
        words += ["moving", direction]
    else:
        angle = uniform(0, 2 * math.pi)
        velocity = (math.cos(angle) * speed, math.sin(angle) * speed)
    return Shape(kind, colour, radius, centre, velocity, " ".join(words))


def random_clip(seed: int) -> tuple[str, list[Shape]]:
    """The prompt and the shapes of clip number `seed`: one shape or two of different kind and colour."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randperm(len(SHAPES), generator=generator).tolist()
    colours = torch.randperm(len(COLOURS), generator=generator).tolist()
    count = 1 if torch.rand((), generator=generator).item() < 0.4 else 2
    shapes = [random_shape(generator, SHAPES[kinds[i]], list(COLOURS)[colours[i]]) for i in range(count)]
    return " and ".join(shape.words for shape in shapes), shapes


def drawn_clip(seed: int, num_frames: int, start: int = 0) -> tuple[str, torch.Tensor]:
    """The prompt of clip number `seed`, and its frames from `start` on as [3, num_frames, SIZE, SIZE] in [-1, 1]."""
    prompt, shapes = random_clip(seed)
    return prompt, draw(shapes, num_frames, start)
