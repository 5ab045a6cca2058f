"""A toy diffusion-forcing pipeline: staggered blocks, segments, conditioning frames, guidance, as the real one."""

import torch

from ..modules.transformer import WanModel


class DiffusionForcingPipeline:
    def __init__(self, seed=0, dtype=torch.float32):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.transformer = WanModel().to(dtype).eval().requires_grad_(False)
        self._guidance_scale = 1.0

    @staticmethod
    def encode(prompt, dtype):
        generator = torch.Generator().manual_seed(sum(map(ord, prompt)))
        return torch.randn(1, 3, 6, generator=generator).to(dtype)

    def generate_timestep_matrix(
        self,
        num_frames,
        step_template,
        base_num_frames,
        ar_step=5,
        num_pre_ready=0,
        casual_block_size=1,
        shrink_interval_with_mask=False,
    ):
        size = casual_block_size
        blocks, steps = num_frames // size, len(step_template)
        done = steps + 1
        template = torch.cat([torch.tensor([999]), step_template.long(), torch.tensor([0])])
        row = [done if block < num_pre_ready // size else 0 for block in range(blocks)]
        rows, masks = [], []
        while min(row) < steps:
            new = []
            for block in range(blocks):
                free = block == 0 or row[block - 1] >= steps
                new.append(min(max(row[block] + 1 if free else new[block - 1] - ar_step, 0), done))
            masks.append([a != b and a != done for a, b in zip(new, row, strict=True)])
            rows.append(new)
            row = new
        end, intervals = base_num_frames // size, []
        for mask in masks:
            if end < blocks and mask[end]:
                end += 1
            intervals.append((max(end - base_num_frames // size, 0) * size, end * size))
        index = torch.tensor(rows).repeat_interleave(size, dim=1)
        return template[index], index, torch.tensor(masks).repeat_interleave(size, dim=1), intervals

    @torch.no_grad()
    def __call__(
        self,
        prompt,
        negative_prompt="",
        num_frames=25,
        num_inference_steps=12,
        guidance_scale=3.0,
        seed=0,
        image=None,
        end_image=None,
        overlap=None,
        base=25,
        addnoise_condition=0,
        ar_step=3,
        causal_block_size=5,
        fps=24,
    ):
        """Returns latents [4, frames, 4, 4]; `image` and `end_image` are latent frames [4, n, 4, 4]."""
        generator = torch.Generator().manual_seed(seed)
        long = overlap is not None and num_frames > base
        out, made, prefix, last = None, 0, image, False
        while not last:
            frames = min(base, num_frames - made + (prefix.shape[1] if out is not None else 0)) if long else num_frames
            last = not long or made + frames - (prefix.shape[1] if out is not None else 0) >= num_frames
            ends = end_image if last else None
            latents = self._segment(
                prompt, negative_prompt, frames, num_inference_steps, guidance_scale, generator, prefix, ends,
                addnoise_condition, ar_step, causal_block_size, fps,
            )  # fmt: skip
            out = latents if out is None else torch.cat([out, latents[:, prefix.shape[1] :]], dim=1)
            made, prefix = out.shape[1], out[:, -overlap:] if long else None
        return out

    @torch.no_grad()
    def extend_video(self, prompt, prefix, negative_prompt="", num_frames=25, guidance_scale=3.0, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return self._segment(
            prompt, negative_prompt, num_frames, 12, guidance_scale, generator, prefix, None, 0, 3, 5, 24
        )

    def _segment(
        self, prompt, negative_prompt, frames, steps, guidance, generator, prefix, ends, addnoise, ar_step, size, fps
    ):
        """One loop; kept apart from __call__ here, while upstream repeats it inline."""
        dtype = self.transformer.dtype
        context, negative = self.encode(prompt, dtype), self.encode(negative_prompt, dtype)
        latents = torch.randn(4, frames, 4, 4, generator=generator, dtype=torch.float32)
        ready = 0 if prefix is None else prefix.shape[1]
        if ready:
            latents[:, :ready] = prefix
        if ends is not None:
            latents = torch.cat([latents, ends], dim=1)
            frames += ends.shape[1]
        levels = torch.linspace(1.0, 1.0 / steps, steps)
        template = (1000 * 3 * levels / (1 + 2 * levels)).clamp(max=999)
        step_matrix, _, step_update_mask, valid_interval = self.generate_timestep_matrix(
            frames, template, frames, ar_step, ready, size
        )
        if ends is not None:
            step_matrix[:, -ends.shape[1] :] = 0
            step_update_mask[:, -ends.shape[1] :] = False
        for i, timestep_i in enumerate(step_matrix):
            start, end = valid_interval[i]
            timestep = timestep_i[None, start:end].clone()
            x = latents[None, :, start:end].clone().to(dtype)
            if addnoise > 0 and start < ready:
                x[:, :, start:ready] += 0.001 * addnoise * torch.randn_like(x[:, :, start:ready])
                timestep[:, start:ready] = addnoise
            velocity = self.transformer(x, t=timestep, context=context, fps=[int(fps != 16)])[0]
            if guidance > 1:
                other = self.transformer(x, t=timestep, context=negative, fps=[int(fps != 16)])[0]
                velocity = other + guidance * (velocity - other)
            following = step_matrix[min(i + 1, len(step_matrix) - 1)]
            for j in range(start, end):
                if step_update_mask[i, j].item():
                    step = (following[j] if following[j] < timestep_i[j] else 0) - timestep_i[j]
                    latents[:, j] += step / 1000 * velocity[:, j - start]
        return latents
