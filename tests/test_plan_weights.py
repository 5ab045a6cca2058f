"""`plan --weights`: which tensors are read from which files, what the plan says then, and errors that teach."""

from __future__ import annotations

import builtins
import json

import planned
import pytest
import safetensors
import torch
from hosts import fake_magi, tiny_transformer
from safetensors.torch import save_file

from scope_patch.hosts.wan import NAMED, WanShape
from scope_patch.outlook.signal import DIFFUSERS, OFFICIAL, Checkpoint, modulation

SHORT = {"num_frames": 17, "steps": 12, "height": 32, "width": 32}
HOSTS = ["skyreels-v2", "skyreels-v2-diffusers"]


@pytest.fixture
def pipeline(tmp_path):
    """A folder as diffusers' `save_pretrained` leaves it: the DiT is in a folder below."""
    tiny_transformer().save_pretrained(tmp_path / "transformer")
    return tmp_path


@pytest.fixture
def official(tmp_path):
    """The same model under upstream's names, without a config.json."""
    return renamed(tiny_transformer(), tmp_path / "official")


def renamed(model, folder, drop=()):
    names = {DIFFUSERS[part]: OFFICIAL[part] for part in OFFICIAL}
    tensors = {}
    for name, tensor in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        tensors[f"{names.get(module, module)}.{kind}"] = tensor
    folder.mkdir(parents=True)
    save_file({name: tensor for name, tensor in tensors.items() if name not in drop}, folder / "model.safetensors")
    return folder


def told(host="skyreels-v2", **options):
    said, error = planned.plan(host, **{**SHORT, **options})
    assert not error, error
    return said


@pytest.mark.parametrize("host", HOSTS)
def test_decisions_are_exact_and_say_from_what(pipeline, host, capsys):
    by = {"placement": "threshold"}
    bounds, exact = told(host, **by), told(host, **by, weights=pipeline, target_speedup=2)
    assert not bounds["exact"] and bounds["signal"] is None
    assert exact["exact"] and exact["signal"] == "time modulation (from the weights)" and exact["target"] == 2
    assert exact["plan"]["speedup"] == pytest.approx(2, rel=0.1)
    assert told(host, weights=pipeline, signal="expected")["signal"] == "expected change of the latents"
    assert told(host, weights=pipeline, policy="never")["signal"] is None
    planned.main(["plan", host, "--num-frames=17", "--placement=threshold", "--weights", str(pipeline)])
    assert "decided from: time modulation (from the weights)" in capsys.readouterr().out


def test_only_the_time_embedding_is_read(pipeline, monkeypatch):
    """One tensor at a time, out of files that are mapped, not loaded."""
    asked, whole = [], safetensors.safe_open

    class Spy:
        def __init__(self, *args, **kwargs):
            self.file = whole(*args, **kwargs)

        def __enter__(self):
            self.opened = self.file.__enter__()
            return self

        def __exit__(self, *exception):
            return self.file.__exit__(*exception)

        def keys(self):
            return self.opened.keys()

        def get_tensor(self, name):
            asked.append(name)
            return self.opened.get_tensor(name)

    monkeypatch.setattr(safetensors, "safe_open", Spy)
    told(weights=pipeline)
    modules = [*DIFFUSERS.values()]
    wanted = {"fps_embedding.weight", *(f"{module}.{kind}" for module in modules for kind in ("weight", "bias"))}
    assert sorted(asked) == sorted(wanted)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_layouts_are_one_function(pipeline, official, host, dtype):
    times = torch.arange(0, 1000, 37)
    for fps in (16, 24):
        one, other = (modulation(Checkpoint.find(str(folder)), host, fps, dtype)[0] for folder in (pipeline, official))
        assert torch.equal(one(times), other(times))
    slow, fast = (modulation(Checkpoint.find(str(official)), host, fps, dtype)[0](times) for fps in (16, 30))
    assert not torch.equal(slow, fast)


def test_shards_a_single_file_and_half_precision_checkpoints(tmp_path, pipeline):
    whole = modulation(Checkpoint.find(str(pipeline)), "skyreels-v2", 24, torch.bfloat16)[0]
    model = tiny_transformer().to(torch.bfloat16)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert (tmp_path / "shards" / "diffusion_pytorch_model.safetensors.index.json").is_file()
    model.save_pretrained(tmp_path / "one")
    times = torch.arange(0, 1000, 37)
    for given in ("shards", "one/diffusion_pytorch_model.safetensors"):
        found = modulation(Checkpoint.find(str(tmp_path / given)), "skyreels-v2", 24, torch.bfloat16)[0]
        assert torch.equal(found(times), whole(times)), "upstream rounds its weights to bfloat16 in any case"


def test_the_models_dimensions_come_from_its_configuration(pipeline, official, tmp_path):
    config = json.loads((pipeline / "transformer" / "config.json").read_text())
    shape = WanShape.from_config(config)
    assert shape.dim == 24 and shape.layers == 2 and shape.text_dim == 8
    published = {
        "dim": 1536, "ffn_dim": 8960, "freq_dim": 256, "in_dim": 16, "inject_sample_info": True, "model_type": "t2v",
        "num_heads": 12, "num_layers": 30, "out_dim": 16, "text_len": 512, "_class_name": "WanModel",
    }  # fmt: skip
    assert WanShape.from_config(published) == NAMED["1.3B"]
    small = told(weights=pipeline)["plan"]["pflop"]["original"]
    assert small < 1e-4 * told()["plan"]["pflop"]["original"]


def test_magi(tmp_path):
    """Its own signal is known anyway; the timestep signal needs the weights, which lie in upstream's folder."""
    options = {"config": magi_config(tmp_path), "target_speedup": 2}
    short = {"num_frames": 96, "steps": 16}
    assert told("magi-1", **options, **short)["signal"] == "noise levels"
    by_thresholds = told("magi-1", **options, **short, placement="threshold")
    assert by_thresholds["signal"] == "expected change of the latents"
    options |= {"signal": "timestep", **short}
    assert not told("magi-1", **options)["exact"]
    folder = tmp_path / "load" / "inference_weight"
    folder.mkdir(parents=True)
    model = fake_magi().make_model()
    save_file({f"t_embedder.{k}": v for k, v in model.t_embedder.state_dict().items()}, folder / "model.safetensors")
    said = told("magi-1", **options, weights=tmp_path / "load")
    assert said["exact"] and said["signal"] == "timestep embedding (from the weights)"
    _, error = planned.plan("magi-1", **options | SHORT, weights=tmp_path)
    assert "nor in inference_weight below it" in error


def magi_config(folder):
    from test_plan_command import ENGINE, MODEL, RUNTIME

    path = folder / "config.json"
    engine = {**ENGINE, "distill": False, "fp8_quant": False}
    path.write_text(json.dumps({"model_config": MODEL, "runtime_config": RUNTIME, "engine_config": engine}))
    return path


def cut(folder):
    (file,) = folder.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1000])


def garble(folder):
    (file,) = folder.glob("*.safetensors")
    file.write_bytes(b"no safetensors file")


def lose_a_shard(folder):
    (file,) = folder.glob("*.safetensors")
    file.unlink()
    names = [f"{module}.{kind}" for module in OFFICIAL.values() for kind in ("weight", "bias")]
    names.append("fps_embedding.weight")
    index = {"weight_map": dict.fromkeys(names, "model-1.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (cut, "is no whole safetensors file"),
        (garble, "is no whole safetensors file"),
        (lose_a_shard, "model-1.safetensors is not there; is the download complete?"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no *.safetensors file there, nor in transformer"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("{}"), "is no index of safetensors files"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda folder: (folder / "config.json").write_text("{}"), "no configuration of a SkyReels-V2 model: 'dim'"),
    ],
)
def test_spoiled_folders(official, spoil, complaint):
    spoil(official)
    said, error = planned.plan("skyreels-v2", **SHORT, weights=official)
    assert said is None and complaint in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ({"time_projection.1.weight": None}, "does not hold time_projection.1.weight, which the time modulation"),
        ({"fps_projection.2.bias": None}, "does not hold fps_projection.2.bias"),
        ({"time_embedding.0.weight": torch.ones(24, 32, dtype=torch.int8)}, "is quantised (torch.int8)"),
        ({"time_embedding.2.weight": torch.ones(24, 7)}, "do not fit together"),
        ({"time_embedding.0.weight": torch.tensor([1.0])}, "do not fit together"),
    ],
)
def test_tensors_that_are_missing_or_unusable(official, tensors, complaint):
    file = official / "model.safetensors"
    held = safetensors.torch.load_file(file) | tensors
    save_file({name: tensor for name, tensor in held.items() if tensor is not None}, file)
    said, error = planned.plan("skyreels-v2", **SHORT, weights=official)
    assert said is None and complaint in error and error.count("\n") == 1


def test_a_folder_of_another_model_or_none_at_all(official, tmp_path, monkeypatch):
    save_file({"decoder.weight": torch.ones(2)}, tmp_path / "vae.safetensors")
    for options, complaint in (
        (
            {"weights": tmp_path},
            "does not hold time_embedding.0.weight, time_embedding.0.bias, time_embedding.2.weight",
        ),
        ({"weights": tmp_path / "nowhere"}, "there is no such folder or file"),
        ({"weights": official}, "are of 24 channels, --model needs 1536"),
        ({"weights": official, "model": "14B"}, "are of 24 channels, --model 14B has 5120"),
        ({"signal": "latent"}, "signal 'latent' is gone, because every decision is made before the first forward"),
    ):
        said, error = planned.plan("skyreels-v2", **SHORT, **options)
        assert said is None and complaint in error and error.count("\n") == 1
    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", lambda name, *rest: fail(name) or real(name, *rest))
    said, error = planned.plan("skyreels-v2", **SHORT, weights=official)
    assert said is None and "pip install safetensors" in error


def fail(name):
    if name == "safetensors":
        raise ImportError(name)
