"""Guidance branches: told apart by what their calls are conditioned on, which is looked at by place and version."""

from __future__ import annotations

import gc
import weakref
from itertools import pairwise

import pytest
import torch
from no_sync import no_sync

from scope_patch.patch.branches import FORGET_AFTER, Branches, conditioning
from scope_patch.patch.host import Dit

DIT = Dit("a.module", "DiT", latents="x", timestep="t", condition="text")
VELOCITY = torch.ones(1, 1, 2, 1, 1)


def given(**arguments):
    return conditioning({"x": VELOCITY, "t": torch.zeros(1), **arguments}, DIT)


def record(branch, number):
    (part,) = branch.parts((0, 2))
    part.history.record((0, 2), torch.tensor([1.0 - 0.1 * number] * 2), VELOCITY)


class Loop:
    """What `calls(step)` gives of every step, as branches; every call is computed, and recorded."""

    def __init__(self, calls, steps):
        self.remarks = []
        self.branches = Branches(3, remark=self.remarks.append)
        self.found = []
        for step in range(steps):
            self.branches.enter(step)
            row = []
            for arguments in calls(step):
                branch = self.branches.find(given(**arguments))
                usable = bool(branch.histories and branch.histories[0].anchors) and not branch.doubt
                depth = len(branch.histories[0].anchors) if usable else 0
                record(branch, step)
                row.append((branch, depth))
            self.found.append(row)

    def depths(self, call=0):
        """Velocities that a prediction may rest on, step by step."""
        return [row[call][1] for row in self.found]


TEXTS = [torch.randn(1, 4, 3) for _ in range(3)]


def test_the_same_tensors_are_the_same_branch_in_whatever_order():
    made = Loop(lambda step: [{"text": TEXTS[k]} for k in ((0, 1) if step % 2 else (1, 0))], 6)
    assert made.depths(0) == made.depths(1) == [0, 1, 2, 3, 3, 3] and not made.remarks
    assert made.found[0][0][0] is made.found[1][1][0]


@pytest.mark.parametrize("how", ["in place", "by another tensor", "in a list"])
@pytest.mark.parametrize("first", [1, 2, 5])
def test_a_prompt_that_changes_begins_anew_and_the_other_does_not(how, first):
    mine, other = TEXTS[0].clone(), TEXTS[1]

    def calls(step):
        if step == first and how == "in place":
            mine.copy_(TEXTS[2])
        text = TEXTS[2] if step >= first and how != "in place" else mine
        return [{"text": [text] if how == "in a list" else text}, {"text": other}]

    made = Loop(calls, 8)
    after = [0, 1, 2, 3, 3]
    assert made.depths(0)[first : first + 3] == after[:3] and not made.remarks
    assert made.depths(1) == [0, 1, 2, 3, 3, 3, 3, 3]


@pytest.mark.parametrize("argument", ["text", "image", "pooled", "guidance"])
def test_every_argument_counts_but_latents_timestep_and_plain_values(argument):
    held = {name: torch.ones(2) for name in ("text", "image", "pooled", "guidance")}

    def calls(step):
        if step == 4:
            held[argument].add_(1)
        return [{**held, "scale": float(step), "return_dict": bool(step), "x": torch.zeros(1), "t": torch.ones(1)}]

    assert Loop(calls, 6).depths() == [0, 1, 2, 3, 0, 1]


@pytest.mark.parametrize("how", ["cloned", "written to"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_what_is_never_the_same_is_told_by_its_place_in_the_step(how, order):
    """The second step is run for safety's sake; nothing that was computed is lost by that."""
    texts = [TEXTS[0].clone(), TEXTS[1].clone()]

    def calls(step):
        texts[0] = texts[0].clone() if how == "cloned" else texts[0].mul_(1)
        return [{"text": texts[k], "image": TEXTS[2]} for k in order]

    made = Loop(calls, 6)
    assert made.depths(order.index(0)) == [0, 0, 2, 3, 3, 3] and made.depths(order.index(1)) == [0, 1, 2, 3, 3, 3]
    (remark,) = made.remarks
    assert remark.startswith("text of the DiT's calls: another tensor at every step")


def test_beside_what_is_never_the_same_a_change_is_seen():
    image = TEXTS[2].clone()

    def calls(step):
        if step == 5:
            image.add_(1)
        return [{"text": TEXTS[0].clone(), "image": image}, {"text": TEXTS[1].clone(), "image": image}]

    made = Loop(calls, 8)
    assert made.depths(0) == made.depths(1) == [0, 0, 2, 3, 3, 0, 1, 2]


def test_two_prompts_by_turns_have_a_history_each():
    made = Loop(lambda step: [{"text": TEXTS[step % 2]}], 8)
    assert made.depths() == [0, 0, 0, 1, 1, 2, 2, 3] and not made.remarks


def test_a_view_that_is_made_anew_is_the_same_and_what_lies_beside_it_is_not():
    both = torch.randn(2, 4, 3)
    made = Loop(lambda step: [{"text": both[:1]}, {"text": both[1:]}], 5)
    assert made.depths(0) == made.depths(1) == [0, 1, 2, 3, 3] and not made.remarks


def test_what_is_written_into_one_of_two_views_counts_for_both():
    """They have one version between them; that a branch is run once too often is what it costs."""
    both = torch.randn(2, 4, 3)

    def calls(step):
        if step == 3:
            both[0] += 1
        return [{"text": both[0]}, {"text": both[1]}]

    made = Loop(calls, 5)
    assert made.depths(0) == made.depths(1) == [0, 1, 2, 0, 1]


def test_one_tensor_for_both_prompts_is_two_branches():
    made = Loop(lambda step: [{"text": TEXTS[0]}, {"text": TEXTS[0]}], 4)
    assert made.depths(0) == made.depths(1) == [0, 1, 2, 3]


def test_a_tensor_at_the_place_of_one_that_is_gone_is_another():
    """What a branch was given is kept alive by it, so that nothing else can come to lie there."""
    seen = []

    def calls(step):
        text = TEXTS[0] if step < 3 else torch.full((1, 4, 3), float(step // 4))
        seen.append((id(text), text.data_ptr()))
        return [{"text": text}]

    made = Loop(calls, 7)
    assert made.depths() == [0, 1, 2, 0, 0, 0, 0] and all(a != b for a, b in pairwise(seen[3:]))


def test_inference_tensors_have_no_version_and_are_told_by_place():
    with torch.inference_mode():
        texts = [torch.randn(1, 4, 3) for _ in range(2)]
    made = Loop(lambda step: [{"text": texts[step >= 3]}], 6)
    assert made.depths() == [0, 1, 2, 0, 1, 2]


def test_a_prompt_that_is_gone_is_let_go_with_its_history():
    texts = [torch.randn(1, 4, 3) for _ in range(2)]
    gone = weakref.ref(texts[0])
    branches = Branches(3)
    for step in range(3):
        branches.enter(step)
        record(branches.find(given(text=texts[0])), step)
    old = weakref.ref(branches._known[0].histories[0])
    texts[0] = None
    for step in range(3, 3 + FORGET_AFTER + 1):
        branches.enter(step)
        record(branches.find(given(text=texts[1])), step)
    gc.collect()
    assert gone() is None and old() is None and len(branches._known) == 1


def test_nothing_is_looked_at():
    with no_sync():
        made = Loop(lambda step: [{"text": TEXTS[0], "more": {"a": [TEXTS[1], object]}, "cut": TEXTS[2][:, :2]}], 4)
    assert made.depths() == [0, 1, 2, 3]
