"""The decoder of a VQGAN (Esser et al. 2021), for images guided by CLIP (Crowson et al. 2022).

It is read from a local folder and never downloaded: a config of taming-transformers (``*.yaml``) with its
checkpoint, or diffusers' ``VQModel``, loaded with that package.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from engine.checkpoint import fill
from engine.torch_files import read_torch_file
from engine.user_error import UserError
from pretrain.probe.pictures_untrained import Drawn, from_diffusers

Map = Float[Tensor, "batch _ _ _"]


class VQGAN(NamedTuple):
    """A decoder of codes, and its codebook."""

    decode: Callable[[Map], Map]
    """Function from codes to pixels in [0, 1]."""
    codebook: Float[Tensor, "codes channels"]
    factor: int
    """Pixels per code along each side."""

    def canvas(self, targets: Tensor, rng: torch.Generator, side: int) -> Drawn:
        """Return random codes for images of ``side`` pixels, and the decoder of codes to pixels."""
        size = max(side // self.factor, 1)
        index = torch.randint(len(self.codebook), (len(targets), size, size), generator=rng)
        codes = self.codebook[index.to(self.codebook.device)]
        return codes.permute(0, 3, 1, 2).contiguous(), self.pixels

    def pixels(self, codes: Map) -> Map:
        """Quantise codes and decode them to pixels, with a straight-through gradient."""
        flat = codes.permute(0, 2, 3, 1)
        nearest = self.codebook[torch.cdist(flat.flatten(0, 2), self.codebook).argmin(-1)].view_as(flat)
        return self.decode((flat + (nearest - flat).detach()).permute(0, 3, 1, 2)).clamp(0, 1)


def open_vqgan(folder: Path | str, device: str = "cpu") -> VQGAN:
    folder = Path(folder)
    if configs := sorted(folder.glob("*.yaml")):
        return _taming(folder, configs[0], device)
    if (folder / "config.json").is_file():
        return _of_diffusers(folder, device)
    raise UserError(f"{folder} has no VQGAN: give a folder with taming's *.yaml and checkpoint, or a VQModel")


def _taming(folder: Path, config: Path, device: str) -> VQGAN:
    import yaml

    try:
        params = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]["params"]
        network = TamingDecoder(params["embed_dim"], params["ddconfig"])
    except Exception as error:  # wrong values raise many kinds of errors
        raise UserError(f"{config} is not a VQGAN's configuration ({' '.join(str(error).split())})") from None
    kinds = (".ckpt", ".pt", ".pth", ".safetensors")
    file = next((file for file in sorted(folder.iterdir()) if file.suffix in kinds), None)
    if file is None:
        raise UserError(f"{folder} has no checkpoint (.ckpt, .pt, .safetensors) next to {config.name}")
    content = read_torch_file(file)
    state = content.get("state_dict", content)
    ours = {network.own_name(name): tensor for name, tensor in state.items()}
    fill(network, {name: ours[name] for name in network.state_dict() if name in ours}, file)
    book = state.get("quantize.embedding.weight", state.get("quantize.embed.weight"))
    if book is None:
        raise UserError(f"{file} has no codebook (quantize.embedding.weight)")
    network = network.eval().requires_grad_(False).to(device)
    factor = 2 ** (network.n_levels - 1)
    return VQGAN(lambda codes: (network(codes) + 1) / 2, book.float().to(device), factor)


def _of_diffusers(folder: Path, device: str) -> VQGAN:
    model = from_diffusers("VQModel", folder).eval().requires_grad_(False).to(device)

    def decode(codes: Map) -> Map:
        return (model.decode(codes, force_not_quantize=True).sample + 1) / 2

    book = model.quantize.embedding.weight.detach().float()
    return VQGAN(decode, book, 2 ** (len(model.config.block_out_channels) - 1))


class TamingDecoder(nn.Module):
    """The decoder from codes to pixels in [-1, 1]: the network of transformers' Janus."""

    def __init__(self, embed_dim: int, shape: Mapping[str, Any]) -> None:
        from transformers.models.janus.modeling_janus import JanusVQVAEConfig, JanusVQVAEDecoder

        super().__init__()
        self.n_levels = len(shape["ch_mult"])
        self.post_quant_conv = nn.Conv2d(embed_dim, shape["z_channels"], 1)
        self.decoder = JanusVQVAEDecoder(
            JanusVQVAEConfig(
                latent_channels=shape["z_channels"],
                base_channels=shape["ch"],
                channel_multiplier=shape["ch_mult"],
                num_res_blocks=shape["num_res_blocks"],
                out_channels=shape["out_ch"],
            )
        )
        # Janus attends at the lowest resolution.
        match shape["attn_resolutions"]:
            case []:
                self.decoder.up[0].attn = nn.ModuleList()
            case [side] if side == shape["resolution"] // 2 ** (self.n_levels - 1):
                pass
            case sides:
                raise ValueError(f"attn_resolutions {sides}: only attention at the lowest one is supported")

    def forward(self, codes: Map) -> Map:
        return self.decoder(self.post_quant_conv(codes))

    def own_name(self, name: str) -> str:
        """Return our name of taming's parameter: Janus numbers levels from the lowest resolution."""
        last = self.n_levels - 1
        return re.sub(r"^decoder\.up\.(\d+)", lambda level: f"decoder.up.{last - int(level[1])}", name)
