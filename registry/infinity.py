"""Infinity, the official repository: an autoregressive image model, scale by scale; no denoise loop at all."""

from scope_patch.hosts import infinity
from scope_patch.patch.host import Dit, Entry, Host
from scope_patch.patch.scales import Scales

MODEL = "infinity.models.infinity"
ASKED = ("vae", "scale_schedule", "label_B_or_BLT", "B", "negative_label_B_or_BLT", "cfg_list", "cfg_insertion_layer",
         "vae_type", "trunk_scale", "gt_leak")  # fmt: skip

HOST = Host(
    name="infinity",
    title="Infinity, scale by scale (official repository)",
    source="github.com/FoundationVision/Infinity @ 4c27bbb",
    triggers=(MODEL,),
    videos=(Entry(MODEL, "Infinity", ("autoregressive_infer_cfg",), bases=("Module",), title="text to image"),),
    loop=Scales(
        block=("infinity.models.basic", "CrossAttnBlock"),
        parameters=("x", "cond_BD", "ca_kv", "rope2d_freqs_grid", "scale_ind"),
        asked=ASKED,
        blocks="unregistered_blocks",
        logits="get_logits",
        codes=("infinity.models.bsq_vae.multiscale_bsq", "BSQ", "indices_to_codes"),
        codec=lambda arguments: arguments["vae"].quantizer.lfq,
        read=lambda model, arguments: (infinity.InfinityShape.of(model), infinity.Image.of(arguments)),
        decide=infinity.decide,
        table=infinity.table,
    ),
    dit=Dit(
        MODEL,
        "Infinity",
        latents="h",
        timestep="",
        condition="cond_BD",
        names=("self", "h", "cond_BD"),
        method="get_logits",
        bases=("Module",),
        blocks="block_chunks",
    ),
    versions={"torch": ">=2.4"},
    model=lambda model: model,
    refuse=infinity.refuse,
    work=lambda model, arguments: (1, arguments["x"].shape[0] * arguments["x"].shape[1]),  # tokens of all rows
    size=lambda model, blocks: (model.C, len(model.unregistered_blocks)),
    presets={"slow": 2.0, "fast": 3.0},
    bypass=lambda model: "what is skipped of a scale is said by --scales",
)
