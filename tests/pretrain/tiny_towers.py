"""A CLIP of a few thousand weights in a folder in open_clip's format."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

SIZES = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def write_towers(folder: Path, seed: int = 0) -> Path:
    """Write random weights drawn from ``seed``."""
    import open_clip

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    clip = open_clip.CLIP(**json.loads(json.dumps(SIZES)))
    settings = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "resize_mode": "shortest"}
    config = {"model_cfg": SIZES, "preprocess_cfg": settings}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(
        {k: v.contiguous() for k, v in clip.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    return folder
