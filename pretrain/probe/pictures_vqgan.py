"""The decoder of a VQGAN (Esser et al. 2021), for images guided by CLIP (Crowson et al. 2022).

It is read from a local folder and never downloaded: a config of taming-transformers (``*.yaml``) with its
checkpoint, or diffusers' ``VQModel``, loaded with that package.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from engine.checkpoint import fill
from engine.torch_files import read_torch_file
from engine.user_error import UserError

Map = Float[Tensor, "batch _ _ _"]


class VQGAN(NamedTuple):
    """A decoder of codes, and its codebook."""

    decode: Callable[[Map], Map]
    """Function from codes to pixels in [0, 1]."""
    codebook: Float[Tensor, "codes channels"]
    factor: int
    """Pixels per code along each side."""

    def canvas(
        self, targets: Tensor, rng: torch.Generator, side: int
    ) -> tuple[Tensor, Callable[[Tensor], Map]]:
        """Return random codes for images of ``side`` pixels, and the decoder of codes to pixels."""
        size = max(side // self.factor, 1)
        index = torch.randint(len(self.codebook), (len(targets), size, size), generator=rng)
        book = self.codebook.to(targets.device)
        return book[index.to(book.device)].permute(0, 3, 1, 2).contiguous(), self.pixels

    def pixels(self, codes: Map) -> Map:
        """Quantise codes and decode them to pixels, with a straight-through gradient."""
        book = self.codebook.to(codes.device)
        flat = codes.permute(0, 2, 3, 1)
        nearest = book[torch.cdist(flat.flatten(0, 2), book).argmin(-1)].view_as(flat)
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
        shape = params["ddconfig"]
        network = TamingDecoder(
            params["embed_dim"],
            shape["z_channels"],
            shape["ch"],
            shape["ch_mult"],
            shape["num_res_blocks"],
            shape["resolution"],
            shape["attn_resolutions"],
            shape["out_ch"],
        )
    except (KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{config} is not a VQGAN's configuration ({' '.join(str(error).split())})") from None
    files = [
        file for file in sorted(folder.iterdir()) if file.suffix in (".ckpt", ".pt", ".pth", ".safetensors")
    ]
    if not files:
        raise UserError(f"{folder} has no checkpoint (.ckpt, .pt, .safetensors) next to {config.name}")
    content = read_torch_file(files[0])
    state = content.get("state_dict", content)
    wanted = {name: state[name] for name in network.state_dict() if name in state}
    fill(network, wanted, files[0])
    book = state.get("quantize.embedding.weight", state.get("quantize.embed.weight"))
    if book is None:
        raise UserError(f"{files[0]} has no codebook (quantize.embedding.weight)")
    network = network.eval().requires_grad_(False).to(device)
    return VQGAN(lambda codes: (network(codes) + 1) / 2, book.float(), 2 ** (len(shape["ch_mult"]) - 1))


def _of_diffusers(folder: Path, device: str) -> VQGAN:
    import diffusers  # pyright: ignore[reportMissingImports]

    try:
        model: Any = diffusers.VQModel.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # other models, missing parts
        reason = " ".join(str(error).split())[:160].rstrip(".")
        raise UserError(f"the VQModel in {folder} cannot be loaded: {reason}") from None
    model = model.eval().requires_grad_(False).to(device)

    def decode(codes: Map) -> Map:
        return (model.decode(codes, force_not_quantize=True).sample + 1) / 2

    book = model.quantize.embedding.weight.detach().float()
    return VQGAN(decode, book, 2 ** (len(model.config.block_out_channels) - 1))


class TamingDecoder(nn.Module):
    """The decoder from codes to pixels in [-1, 1], with taming-transformers' parameter names."""

    def __init__(
        self,
        code: int,
        inner: int,
        width: int,
        multiples: list[int],
        blocks: int,
        resolution: int,
        attended: list[int],
        out: int = 3,
    ) -> None:
        super().__init__()
        self.post_quant_conv = nn.Conv2d(code, inner, 1)
        self.decoder = decoder = nn.Module()
        channels, side = width * multiples[-1], resolution // 2 ** (len(multiples) - 1)
        decoder.conv_in = nn.Conv2d(inner, channels, 3, 1, 1)
        decoder.mid = nn.Module()
        decoder.mid.block_1, decoder.mid.attn_1 = Residual(channels, channels), Attention(channels)
        decoder.mid.block_2 = Residual(channels, channels)
        levels: list[nn.Module] = []
        for level in reversed(range(len(multiples))):
            up, outer = nn.Module(), width * multiples[level]
            up.block = nn.ModuleList(
                Residual(channels if n == 0 else outer, outer) for n in range(blocks + 1)
            )
            up.attn = nn.ModuleList(Attention(outer) for _ in range(blocks + 1) if side in attended)
            if level:
                up.upsample, side = nn.Module(), 2 * side
                up.upsample.conv = nn.Conv2d(outer, outer, 3, 1, 1)
            channels = outer
            levels.insert(0, up)
        decoder.up = nn.ModuleList(levels)
        decoder.norm_out = _norm(channels)
        decoder.conv_out = nn.Conv2d(channels, out, 3, 1, 1)

    def forward(self, codes: Map) -> Map:
        decoder: Any = self.decoder
        x = decoder.conv_in(self.post_quant_conv(codes))
        x = decoder.mid.block_2(decoder.mid.attn_1(decoder.mid.block_1(x)))
        for level in reversed(range(len(decoder.up))):
            up = decoder.up[level]
            for number, block in enumerate(up.block):
                x = block(x)
                if len(up.attn):
                    x = up.attn[number](x)
            if level:
                x = up.upsample.conv(F.interpolate(x, scale_factor=2.0))
        return decoder.conv_out(F.silu(decoder.norm_out(x)))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class Residual(nn.Module):
    """A residual block of two normalised convolutions."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inner), nn.Conv2d(inner, outer, 3, 1, 1)
        self.norm2, self.conv2 = _norm(outer), nn.Conv2d(outer, outer, 3, 1, 1)
        if inner != outer:
            self.nin_shortcut = nn.Conv2d(inner, outer, 1)

    def forward(self, x: Map) -> Map:
        residual = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return residual + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    """A residual self-attention over all positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Map) -> Map:
        normal = self.norm(x)
        q, k, v = (layer(normal).flatten(2).mT for layer in (self.q, self.k, self.v))
        return x + self.proj_out(F.scaled_dot_product_attention(q, k, v).mT.view_as(x))
