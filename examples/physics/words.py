"""The words of the scenes' captions, for the demo's text encoder."""

from __future__ import annotations

from demo_model.text import Vocabulary, encode_prompts

from .scenes import ACTIONS, CAMERAS, COLOURS, GROUNDS, LIGHTS

KNOWN = Vocabulary(
    words=(
        "and",
        *COLOURS,
        *ACTIONS,
        *dict.fromkeys(action for actions in ACTIONS.values() for action in actions),
        *GROUNDS,
        *LIGHTS,
        *(camera for camera in CAMERAS if camera),
    ),
    synonyms={"sphere": "ball", "crate": "box", "cube": "box", "meadow": "grass", "desert": "sand", "floor": "tiles"},
    fillers=frozenset("a an the is on by at in moving camera over".split()),
)


def encode(captions: list[str]):
    """[N, 16, 64] embeddings, zero beyond the last word; the empty caption is all zeros."""
    return encode_prompts(captions, KNOWN)
