"""What is filmed: prompts of the demo's vocabulary. Those on which the defaults were chosen are in no suite."""

from __future__ import annotations

from collections.abc import Sequence

PROMPTS = (
    "a red square and a white disc",
    "a big blue disc moving left",
    "a small green triangle moving right and a yellow ring",
    "a magenta disc moving up",
    "a yellow disc and a blue triangle",
    "a big white ring moving down",
    "a small red ring moving left and a big blue square moving right",
    "a green square",
    "a magenta triangle and a green disc",
    "a small yellow square moving up",
    "a blue ring moving right",
    "a big red triangle and a small magenta ring",
    "a white square moving left and a green ring moving right",
    "a small magenta disc moving down and a yellow triangle",
    "a big green square moving up",
    "a blue disc and a white triangle",
    "a yellow ring and a red disc moving up",
    "a small white disc",
    "a big magenta square moving right and a blue ring",
    "a red triangle moving down",
    "a green disc and a white square moving up",
    "a small blue triangle moving left",
    "a big yellow disc and a magenta square",
    "a white triangle and a red ring moving right",
)
PHYSICS_FIRST = (
    "a red ball bounces and a blue box slides, on grass by day",
    "a yellow pendulum swings, on sand by night moving left",
    "a white box tumbles and a red wheel rolls, on tiles by day moving right",
    "a blue ball rolls and a yellow pendulum swings, on grass by day moving left",
)
"""Of the first tables of the physics testbeds, by which defaults were decided (docs/testbeds.md): in none since."""
PHYSICS_TUNING = (
    *PHYSICS_FIRST,
    "a white wheel rolls, on sand by day",
    "a blue box slides and a yellow ball bounces, on tiles by day",
    "a red ball rolls and a white pendulum swings, on grass by night",
    "a blue wheel rolls and a red box slides, on tiles by night moving right",
)
"""What the studies film of the physics testbeds."""
PHYSICS = (
    "a yellow wheel rolls, on tiles by night",
    "a red box slides and a white ball bounces, on sand by day moving right",
    "a blue pendulum swings and a red box tumbles, on sand by day",
    "a white wheel rolls and a yellow ball bounces, on grass by night moving right",
    "a red pendulum swings and a white wheel rolls, on tiles by day",
    "a yellow ball rolls, on sand by day moving left",
    "a blue box tumbles and a white pendulum swings, on grass by night",
    "a white ball bounces and a red wheel rolls, on tiles by day moving left",
    "a red wheel rolls and a blue ball bounces, on sand by night",
    "a yellow box slides, on grass by day moving right",
    "a white pendulum swings and a blue wheel rolls, on tiles by night moving left",
    "a blue ball bounces, on tiles by day",
)
"""Of the physics testbeds: on these nothing was ever chosen."""
CALIBRATION = (
    "a green ring and a blue disc",
    "a red disc moving left",
    "a big white square moving up and a yellow triangle",
    "a magenta ring moving down",
)
"""For `scope, calibrated` alone: in no table."""
TUNING = (
    "a red disc and a blue square",
    "a big green ring moving right",
    "a small yellow triangle moving up and a white disc moving left",
    "a magenta square",
    "a white ring and a red triangle",
    "a small blue disc moving down",
    "a big yellow square moving left and a small green disc moving right",
    "a green triangle and a magenta ring",
)
"""What the studies film (examples/studies): defaults were chosen on these, so no suite has them."""
TUNING_CALIBRATION = ("a blue triangle moving left", "a big white square and a small red ring")
SEED_STEP, CALIBRATION_SEED = 100, 9000


def videos(prompts: int, seeds: int, filmed: Sequence[str] = PROMPTS) -> list[tuple[str, int]]:
    """(prompt, seed) of every video: no two share their noise. All prompts at the first seed come first."""
    return [(filmed[k], SEED_STEP * turn + k) for turn in range(seeds) for k in range(prompts)]
