"""A loaded tie: voices from sentences and pictures, and words for a voice."""

import hashlib
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from data.audiovisual.scenes import read_picture
from data.voice_captions import AGES, PEOPLE, WORDS, article
from engine.checkpoint import export, fill, load_export
from engine.user_error import UserError
from pretrain.clip.towers import Towers, TowersConfig, open_towers
from w2w.words.network import WordsConfig, WordsNetwork, draw

Picture = UInt8[Tensor, "3 height width"]


def checked(picture: Tensor) -> Picture:
    """Return a picture, with or without a batch axis of 1, or raise an error on its shape or type."""
    if picture.ndim == 4 and len(picture) == 1:
        picture = picture[0]
    if picture.ndim != 3 or picture.shape[0] != 3 or picture.dtype != torch.uint8 or not picture.numel():
        raise UserError(
            f"the picture has shape {tuple(picture.shape)} and type {picture.dtype}; it must be uint8 of"
            " shape (3, height, width)"
        )
    return picture


Voice = Float[Tensor, "1 dim"]
FOLDER = "words"
"""Sub-folder of a converter's export that holds its tie."""
CLIP = "clip"
"""Sub-folder of a tie that holds a copy of a small CLIP."""
SMALL_BYTES = 64 << 20
"""Largest CLIP that is copied into a tie."""
MOST_VARIETY = 2.0
FEW_CHARACTERS = 2


class Tie:
    """The tie between one converter's voices and one CLIP."""

    def __init__(self, network: WordsNetwork, towers: Towers) -> None:
        self.network, self.towers = network.eval().requires_grad_(False), towers
        if towers.key != network.config.towers_key:
            raise UserError(
                f"this tie was made with other weights than those of {towers.title}: make one for them by"
                " `python -m w2w.tie --towers`"
            )

    @classmethod
    def load(cls, folder: Path, *, converter_key: str) -> "Tie":
        """Load a tie; ``converter_key`` must be that of the converter it was made for."""
        if not folder.is_dir():
            raise UserError(f"there is no tie in the folder {folder}: make one by `python -m w2w.tie`")
        config, state = load_export(folder, WordsConfig)
        if config.converter_key != converter_key:
            raise UserError(
                f"{folder} was made for another converter's voices: make one for this by `python -m w2w.tie`"
            )
        network = WordsNetwork(config)
        fill(network, {k: v.float() for k, v in state.items()}, folder / "model.safetensors")
        copied = folder / config.towers.name
        towers = replace(config.towers, name=str(copied)) if copied.is_dir() else config.towers
        return cls(network, open_towers(towers))

    def save(self, folder: Path, towers: TowersConfig) -> Path:
        """Write ``config.json`` and ``model.safetensors``, and a copy of the CLIP if it is a small folder."""
        source, copy = Path(towers.name), folder / CLIP
        if source.is_dir():
            files = [file for file in source.iterdir() if file.is_file()]
            if sum(file.stat().st_size for file in files) <= SMALL_BYTES:
                if copy.resolve() != source.resolve():
                    copy.mkdir(parents=True, exist_ok=True)
                    for file in files:
                        shutil.copyfile(file, copy / file.name)
                towers = replace(towers, name=CLIP)
            else:
                towers = replace(towers, name=str(source.resolve()))
        state = {
            # The axes include log F0, which half precision would round to a tenth of a semitone.
            name: value.half() if name == "memory" or name.startswith(("to_", "straight")) else value
            for name, value in self.network.state_dict().items()
        }
        return export(folder, replace(self.network.config, towers=towers), state)

    @torch.no_grad()
    def from_text(self, text: str, *, variety: float = 0.0, seed: int | None = None) -> Voice:
        """A voice that matches a sentence."""
        if len(text.strip()) < FEW_CHARACTERS:
            raise UserError('the voice description is empty: give one such as "an old man, low and rough"')
        return self._voice(self.towers.texts([text]).cpu(), variety, seed)

    @torch.no_grad()
    def from_image(
        self, picture: str | Path | Tensor, *, variety: float = 0.0, seed: int | None = None
    ) -> Voice:
        """A voice that matches a picture; the picture is mapped to the captions' space first."""
        pixels = checked(picture) if isinstance(picture, Tensor) else read_picture(Path(picture))
        image = self.towers.images(pixels[None]).cpu()
        return self._voice(self.network.recall(image, self.sharpness), variety, seed)

    @property
    def sharpness(self) -> float:
        """CLIP's logit scale, its inverse softmax temperature."""
        scale = getattr(self.towers.clip, "logit_scale", None)
        return float(scale.exp()) if isinstance(scale, Tensor) else 100.0

    def _voice(self, embedding: Tensor, variety: float, seed: int | None) -> Voice:
        if not 0.0 <= variety <= MOST_VARIETY or math.isnan(variety):
            raise UserError(f"variety={variety} must lie between 0 and {MOST_VARIETY:g}")
        generator = torch.Generator()
        generator.seed() if seed is None else generator.manual_seed(seed)
        coordinates = draw(self.network.density(embedding), variety=variety, generator=generator)
        return self.network.voice(coordinates)

    @torch.no_grad()
    def likeness(
        self, voices: Float[Tensor, "voices dim"], texts: Sequence[str]
    ) -> Float[Tensor, "voices texts"]:
        """Cosine similarity of voices and sentences."""
        meaning = self.network.meaning(self.towers.texts(list(texts)).cpu())
        return self.network.voice_embedding(voices.cpu()) @ meaning.T

    def describe(self, voice: Voice, *, count: int = 5) -> list[tuple[str, float]]:
        """The words that match a voice best, with their similarity; at most one per trait."""
        choices = single_words()
        likeness = self.likeness(voice, [text for text, _ in choices])[0]
        best: dict[str, tuple[str, float]] = {}
        for (text, trait), score in zip(choices, likeness.tolist()):
            if score > best.get(trait, ("", -2.0))[1]:
                best[trait] = (text, score)
        return sorted(best.values(), key=lambda pair: -pair[1])[:count]


def single_words() -> list[tuple[str, str]]:
    """Sentences that each describe a single trait, with the trait's name."""
    found = [
        (f"{article(word)} {word} voice", name)
        for name in WORDS
        for words in WORDS[name].values()
        for word in words[:1]
    ]
    found += [(f"{article(words[0])} {words[0]} person", "age") for words in AGES.values()]
    return found + [(f"a {PEOPLE[gender, False][0]}", "gender") for gender in ("F", "M")]


def voices_key(style: nn.Module) -> str:
    """A digest of a style encoder's weights: equal keys give equal voices."""
    digest = hashlib.sha256()
    for name, tensor in sorted(style.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(
            memoryview(tensor.detach().cpu().float().contiguous().flatten().view(torch.uint8).numpy())
        )
    return digest.hexdigest()[:16]
