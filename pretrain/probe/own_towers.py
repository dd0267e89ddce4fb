"""The towers that an encoder was distilled from, where they lie beside it."""

from collections.abc import Sequence
from pathlib import Path

from pretrain.clip.loading import RELEASED
from pretrain.clip.towers import FOLDER_CONFIG, Towers, TowersConfig, open_towers


def towers_for(encoders: Sequence[str], towers: str = "", pretrained: str = "openai") -> Towers:
    """Open the towers that are named; without a name those of an encoder's run, else ViT-B-32."""
    if towers:
        return open_towers(TowersConfig(name=towers, pretrained=pretrained))
    for encoder in encoders:
        place = RELEASED if encoder == "released" else Path(encoder)
        for folder in (place / "clip", place.parent / "clip"):
            if (folder / FOLDER_CONFIG).is_file():
                return open_towers(TowersConfig(name=str(folder)))
    return open_towers(TowersConfig(name="ViT-B-32", pretrained=pretrained))
