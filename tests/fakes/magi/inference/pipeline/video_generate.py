"""The denoising loop: a window of chunks at staggered noise levels, one forward ahead of the integration."""

from collections import Counter
from dataclasses import dataclass
from queue import Queue

import torch

from inference.common import InferenceParams

from . import kv_range
from .inputs import InferenceInput, extract_feature_for_inference  # noqa: F401
from .schedule import generate_sequences, init_intervel, init_t


@dataclass
class WorkStatus:
    infer_idx: int
    cur_denoise_step: int


def find_dit_model(model):
    while not hasattr(model, "y_embedder"):
        if not hasattr(model, "module"):
            raise ValueError("no DiT in here")
        model = model.module
    return model


class SampleTransport:
    def __init__(self, model, transport_inputs, device):
        self.model, self.transport_inputs, self.device = model, transport_inputs, device
        self.model_config = model.model_config
        self.runtime_config = model.runtime_config
        self.engine_config = model.engine_config
        self.chunk_width, self.window_size = self.runtime_config.chunk_width, self.runtime_config.window_size
        self.work_queue = Queue()
        self.chunk_denoise_count, self.ts, self.time_interval, self.xs, self.inference_params = [], [], [], [], []
        self.x_chunks, self.velocities = [None] * len(transport_inputs), [None] * len(transport_inputs)
        mode = self.engine_config.shortcut_mode
        for index, given in enumerate(transport_inputs):
            self.work_queue.put(WorkStatus(infer_idx=index, cur_denoise_step=0))
            self.chunk_denoise_count.append(Counter())
            self.ts.append(init_t(given.num_steps, mode))
            self.time_interval.append(init_intervel(given.num_steps, mode))
            x = torch.randn(*given.latent_size, device=device)
            self.xs.append(torch.cat([x, x]))
            tokens = given.chunk_num * self._chunk_tokens(index)
            self.inference_params.append(InferenceParams(max_batch_size=1, max_sequence_length=tokens))

    def _chunk_tokens(self, infer_idx):
        *_, height, width = self.transport_inputs[infer_idx].latent_size
        return self.chunk_width * height * width // self.model_config.patch_size**2

    def get_denoise_step_of_each_chunk(
        self, infer_idx, denoise_step_per_stage, t_start, t_end, denoise_idx, has_clean_t=False
    ):
        """How many steps every chunk of the window has had, the oldest chunk first."""
        clean = [self.transport_inputs[infer_idx].num_steps] * has_clean_t
        return clean + [part * denoise_step_per_stage + denoise_idx for part in reversed(range(t_start, t_end))]

    def get_timestep(self, t_total, denoise_step_per_stage, start, end, denoise_idx, has_clean_t=False):
        clean = torch.full((int(has_clean_t),), self.runtime_config.clean_t)
        parts = torch.arange(end - 1, start - 1, -1)
        return torch.cat([clean, t_total[parts * denoise_step_per_stage + denoise_idx]])

    def generate_denoise_status_and_sequences(self, infer_idx, cur_denoise_step):
        given = self.transport_inputs[infer_idx]
        chunk_offset = given.prefix_frames // self.chunk_width
        per_stage = given.num_steps // self.window_size
        stage, denoise_idx = divmod(cur_denoise_step, per_stage)
        lists = generate_sequences(given.chunk_num, self.window_size, chunk_offset)
        return (per_stage, stage, denoise_idx), (chunk_offset, *(values[stage] for values in lists))

    def total_forward_step(self, infer_idx):
        given = self.transport_inputs[infer_idx]
        stages = given.chunk_num + self.window_size - 1 - given.prefix_frames // self.chunk_width
        return given.num_steps // self.window_size * stages

    def extract_prefix_video_feature(self, infer_idx, prefix_video, y, chunk_offset, model_kwargs):
        """One pass over the clean chunks of the prefix, for what it leaves in the cache."""
        x = prefix_video[:, :, : chunk_offset * self.chunk_width].repeat(2, 1, 1, 1, 1)
        masks = self.transport_inputs[infer_idx].emb_masks
        reach = [kv_range.clean_reach(self.runtime_config)] * chunk_offset
        kwargs = {
            **model_kwargs,
            "slice_point": 0,
            "range_num": chunk_offset,
            "denoising_range_num": chunk_offset,
            "fwd_extra_1st_chunk": False,
            "extract_prefix_video_feature": True,
            "distill_interval": self.time_interval[infer_idx][0],
        }
        find_dit_model(self.model).forward_dispatcher(
            x=x,
            timestep=torch.full((2, chunk_offset), self.runtime_config.clean_t),
            y=y[1:, :chunk_offset].repeat(2, 1, 1, 1).flatten(0, 1)[:, None],
            mask=masks[1:, :chunk_offset].repeat(2, 1, 1).flatten(0, 1)[:, None],
            kv_range=kv_range.tokens(0, reach, self._chunk_tokens(infer_idx)),
            inference_params=self.inference_params[infer_idx],
            **kwargs,
        )

    def try_pad_prefix_video(self, infer_idx, x_chunk, t, prefix_video_start):
        prefix = self.transport_inputs[infer_idx].prefix_video[:, :, prefix_video_start:]
        if not prefix.size(2):
            return x_chunk, t
        x_chunk, t = x_chunk.clone(), t.clone()
        frames = min(prefix.size(2), x_chunk.size(2))
        x_chunk[:, :, :frames] = prefix[:, :, :frames]
        t[:, : prefix.size(2) // self.chunk_width] = 1.0
        return x_chunk, t

    def forward_velocity(self, infer_idx, cur_denoise_step):
        x, given, width = self.xs[infer_idx], self.transport_inputs[infer_idx], self.chunk_width
        (per_stage, _, denoise_idx), (chunk_offset, start, end, t_start, t_end) = (
            self.generate_denoise_status_and_sequences(infer_idx, cur_denoise_step)
        )
        model_kwargs = dict(chunk_width=width, fwd_extra_1st_chunk=False, num_steps=given.num_steps)
        if chunk_offset > 0 and cur_denoise_step == 0:
            self.extract_prefix_video_feature(infer_idx, given.prefix_video, given.y, chunk_offset, model_kwargs)
        extra = start > chunk_offset and denoise_idx == 0  # the chunk just finished comes along, for its clean K/V
        first = start - int(extra)
        y, mask = given.y[:, start:end], given.emb_masks[:, start:end]
        window = (per_stage, t_start, t_end, denoise_idx, extra)
        steps = self.get_denoise_step_of_each_chunk(infer_idx, *window)
        t = self.get_timestep(self.ts[infer_idx], *window)
        if extra:
            y = torch.cat([given.y[1:, :1].expand(2, -1, -1, -1), y], dim=1)
            mask = torch.cat([given.emb_masks[1:, 1:2].expand(2, -1, -1), mask], dim=1)
        x_chunk, t = x[:, :, first * width : end * width].clone(), t.repeat(2, 1)
        reach = kv_range.reach(self.runtime_config, given.num_steps, steps)
        if given.prefix_video is not None:
            x_chunk, t = self.try_pad_prefix_video(infer_idx, x_chunk, t, prefix_video_start=first * width)
        threshold = self.engine_config.distill_nearly_clean_chunk_threshold
        model_kwargs.update(
            slice_point=first,
            range_num=end,
            denoising_range_num=end - first,
            fwd_extra_1st_chunk=extra,
            distill_nearly_clean_chunk=t[0, int(extra)].item() > threshold,
            distill_interval=self.time_interval[infer_idx][denoise_idx],
        )
        velocity = find_dit_model(self.model).forward_dispatcher(
            x=x_chunk,
            timestep=t,
            y=y.flatten(0, 1)[:, None],
            mask=mask.flatten(0, 1)[:, None],
            kv_range=kv_range.tokens(first, reach, self._chunk_tokens(infer_idx)),
            inference_params=self.inference_params[infer_idx],
            **model_kwargs,
        )
        self.x_chunks[infer_idx], self.velocities[infer_idx] = x_chunk, velocity
        return velocity

    def integrate_velocity(self, infer_idx, cur_denoise_step):
        """Returns (latents, number) of a chunk that became clean, or (None, None)."""
        x, given, width = self.xs[infer_idx], self.transport_inputs[infer_idx], self.chunk_width
        (per_stage, _, denoise_idx), (chunk_offset, start, end, t_start, t_end) = (
            self.generate_denoise_status_and_sequences(infer_idx, cur_denoise_step)
        )
        x_chunk, velocity = self.x_chunks[infer_idx], self.velocities[infer_idx]
        if start > chunk_offset and denoise_idx == 0:
            x_chunk, velocity = x_chunk[:, :, width:], velocity[:, :, width:]
        now, then = (
            self.get_timestep(self.ts[infer_idx], per_stage, t_start, t_end, index)
            for index in (denoise_idx, denoise_idx + 1)
        )
        x_chunk, velocity = (part.unflatten(2, (-1, width)) for part in (x_chunk, velocity))
        assert x_chunk.size(2) == len(now)
        x_chunk = x_chunk + velocity * (then - now).view(1, 1, -1, 1, 1, 1)
        x[:, :, start * width : end * width] = x_chunk.flatten(2, 3)
        count = self.chunk_denoise_count[infer_idx]
        count.update(range(start, end))
        prefix = given.prefix_frames
        if count[start] != given.num_steps or (start + 1) * width <= prefix:
            return None, None
        first = start * width if prefix <= 1 else max(start * width, prefix)
        return x[:1, :, first : (start + 1) * width], start - chunk_offset

    def walk(self):
        for infer_idx in range(len(self.transport_inputs)):
            self.forward_velocity(infer_idx, 0)
        while not self.work_queue.empty():
            work = self.work_queue.get()
            clean_chunk, chunk_idx = self.integrate_velocity(work.infer_idx, work.cur_denoise_step)
            if clean_chunk is not None:
                yield work.infer_idx, chunk_idx, clean_chunk
            following = WorkStatus(work.infer_idx, work.cur_denoise_step + 1)
            if following.cur_denoise_step < self.total_forward_step(work.infer_idx):
                self.work_queue.put(following)
                self.forward_velocity(following.infer_idx, following.cur_denoise_step)


def generate_per_chunk(model, prefix_video, caption_embs, emb_masks):
    given = extract_feature_for_inference(model, prefix_video, caption_embs, emb_masks)
    transport = SampleTransport(model=model, transport_inputs=[given], device="cpu")
    for _, _, chunk in transport.walk():
        yield chunk
