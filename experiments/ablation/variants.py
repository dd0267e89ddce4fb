"""What is left out of the converter's training, one part at a time."""

from dataclasses import replace

from w2w.pretrained import with_encoders
from w2w.train import TrainConfig

FULL = "full"
VARIANTS = {
    FULL: "everything",
    "no_pairs": "without time-aligned pairs: as many human utterances in their place",
    "no_student": "content encoder from random weights, not from the distilled student",
    "no_content_loss": "without the teacher's features of outputs",
    "no_contrast": "without any contrast of voices",
    "no_adversary": "without the discriminator",
    "no_back_translation": "without converted speech as sources",
}
"""By name, what is said of it."""
SPEECH_ENCODERS = {
    "speech_random": "a speech encoder in the student's place, from random weights",
    "speech_frozen": "the pretrained speech encoder in the student's place, frozen",
    "speech_fine_tuned": "the pretrained speech encoder in the student's place, trained on",
}
"""More of them, where a speech encoder is given; these hear whole utterances and cannot stream."""
CONTRAST = ("contrast_style", "contrast_voice", "contrast_discriminator", "contrast_converter")
DISCRIMINATOR = ("adversarial", "feature_matching", "contrast_discriminator", "contrast_converter")
"""Losses that need the discriminator."""


def variant(name: str, full: TrainConfig, speech_encoder: str = "") -> TrainConfig:
    """The full config with one part left out, or another encoder in."""
    match name:
        case "full":
            return full
        case "no_pairs":
            data = replace(full.data, batch=full.data.batch + full.pairs.batch)
            return replace(full, data=data, pairs=replace(full.pairs, path=""))
        case "no_student":
            # Of the same sizes, which the config takes from the student.
            sizes = with_encoders(full.converter, full.pretrained)
            return replace(full, converter=sizes, pretrained=replace(full.pretrained, student=""))
        case "no_content_loss":
            return without_losses(full, "content")
        case "no_contrast":
            return without_losses(full, *CONTRAST)
        case "no_adversary":
            return without_losses(full, *DISCRIMINATOR)
        case "no_back_translation":
            return replace(full, cluit=replace(full.cluit, back_translate_share=0.0))
    assert name in SPEECH_ENCODERS
    use = {"speech_random": "random", "speech_frozen": "frozen", "speech_fine_tuned": "fine_tuned"}[name]
    changes = {"student": "", "content": speech_encoder, "use": use}
    return replace(full, pretrained=replace(full.pretrained, **changes))


def without_losses(config: TrainConfig, *names: str) -> TrainConfig:
    """The config in which some losses have no weight."""
    weights = replace(config.cluit.weights, **dict.fromkeys(names, 0.0))
    return replace(config, cluit=replace(config.cluit, weights=weights))
