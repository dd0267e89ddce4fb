"""Sentences and pictures to voices, voices to words: a tie, kept beside the converter's weights."""

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
    """A picture, perhaps with a batch of one before it, or one sentence on what it is instead."""
    if picture.ndim == 4 and len(picture) == 1:
        picture = picture[0]
    if picture.ndim != 3 or picture.shape[0] != 3 or picture.dtype != torch.uint8 or not picture.numel():
        raise UserError(
            f"a picture of shape {tuple(picture.shape)} and {picture.dtype} was given; it must be uint8 of"
            " shape (3, height, width)"
        )
    return picture


Voice = Float[Tensor, "1 dim"]
FOLDER = "words"
"""Where a converter's export keeps its tie."""
CLIP = "clip"
"""Where a tie keeps a CLIP that is small enough to go with it."""
SMALL_BYTES = 64 << 20
MOST_VARIETY = 2.0
FEW_CHARACTERS = 2


class Tie:
    """One converter's voices tied to one CLIP."""

    def __init__(self, network: WordsNetwork, towers: Towers) -> None:
        self.network, self.towers = network.eval().requires_grad_(False), towers
        if towers.key != network.config.towers_key:
            raise UserError(
                f"this tie was made with other weights than those of {towers.title}: tie the converter to"
                " them by `python -m w2w.tie --towers`"
            )

    @classmethod
    def load(cls, folder: Path, *, converter_key: str) -> "Tie":
        """Read a tie that was made for this converter."""
        if not folder.is_dir():
            raise UserError(f"there is no folder of words {folder}: make one by `python -m w2w.tie`")
        config, state = load_export(folder, WordsConfig)
        if config.converter_key != converter_key:
            raise UserError(
                f"{folder} was made for another converter's voices: make one for this by `python -m w2w.tie`"
            )
        network = WordsNetwork(config)
        fill(network, {k: v.float() for k, v in state.items()}, folder / "model.safetensors")
        beside = folder / config.towers.name
        towers = replace(config.towers, name=str(beside)) if beside.is_dir() else config.towers
        return cls(network, open_towers(towers))

    def save(self, folder: Path, towers: TowersConfig) -> Path:
        """Write ``config.json`` and ``model.safetensors``, and the CLIP itself where it is a small folder."""
        source, own = Path(towers.name), folder / CLIP
        if source.is_dir():
            files = [file for file in source.iterdir() if file.is_file()]
            if sum(file.stat().st_size for file in files) <= SMALL_BYTES:
                if own.resolve() != source.resolve():
                    own.mkdir(parents=True, exist_ok=True)
                    for file in files:
                        shutil.copyfile(file, own / file.name)
                towers = replace(towers, name=CLIP)
            else:
                towers = replace(towers, name=str(source.resolve()))
        state = {
            # Axes hold log-F0, which half precision would round to a tenth of a semitone.
            name: value.half() if name == "memory" or name.startswith(("to_", "straight")) else value
            for name, value in self.network.state_dict().items()
        }
        return export(folder, replace(self.network.config, towers=towers), state)

    @torch.no_grad()
    def from_text(self, text: str, *, variety: float = 0.0, seed: int | None = None) -> Voice:
        """A voice that a sentence asks for."""
        if len(text.strip()) < FEW_CHARACTERS:
            raise UserError(
                'the text that describes the voice is empty: say such as "an old man, low and rough"'
            )
        return self._voice(self.towers.texts([text]).cpu(), variety, seed)

    @torch.no_grad()
    def from_image(
        self, picture: str | Path | Tensor, *, variety: float = 0.0, seed: int | None = None
    ) -> Voice:
        """A voice that a picture suggests: the picture is put into words' place first."""
        pixels = checked(picture) if isinstance(picture, Tensor) else read_picture(Path(picture))
        image = self.towers.images(pixels[None]).cpu()
        return self._voice(self.network.recall(image, self.sharpness), variety, seed)

    @property
    def sharpness(self) -> float:
        """How far CLIP itself raises likenesses before it compares them."""
        scale = getattr(self.towers.clip, "logit_scale", None)
        return float(scale.exp()) if isinstance(scale, Tensor) else 100.0

    def _voice(self, embedding: Tensor, variety: float, seed: int | None) -> Voice:
        if not 0.0 <= variety <= MOST_VARIETY or math.isnan(variety):
            raise UserError(f"variety={variety} must lie between 0 and {MOST_VARIETY:g}")
        generator = torch.Generator()
        generator.seed() if seed is None else generator.manual_seed(seed)
        place = draw(self.network.density(embedding), variety=variety, generator=generator)
        return self.network.voice(place)

    @torch.no_grad()
    def likeness(
        self, voices: Float[Tensor, "voices dim"], texts: Sequence[str]
    ) -> Float[Tensor, "voices texts"]:
        """The cosine between what voices and sentences stand for."""
        meaning = self.network.meaning(self.towers.texts(list(texts)).cpu())
        return self.network.voice_embedding(voices.cpu()) @ meaning.T

    def describe(self, voice: Voice, *, count: int = 5) -> list[tuple[str, float]]:
        """The words that suit a voice best, with their likeness, at most one for each trait."""
        choices = single_words()
        likeness = self.likeness(voice, [text for text, _ in choices])[0]
        best: dict[str, tuple[str, float]] = {}
        for (text, trait), score in zip(choices, likeness.tolist()):
            if score > best.get(trait, ("", -2.0))[1]:
                best[trait] = (text, score)
        return sorted(best.values(), key=lambda pair: -pair[1])[:count]


def single_words() -> list[tuple[str, str]]:
    """Sentences that say one thing each, and which trait that is."""
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
