"""What pretraining buys the converter: the same converter, data and steps, with and without it, over seeds.

    python -m experiments.pretraining --data speech --speech-encoder runs/speech --out runs/arms

The first four arms are one network, whose content encoder has the speech encoder's sizes, so that nothing
differs but what its weights begin from and who listens in training:

- ``none``: random weights, trained with all the rest;
- ``frozen``: pretrained weights that never move;
- ``fine_tuned``: pretrained weights that move at a fifth of the rate, after a tenth of the steps;
- ``feature_loss``: random weights again, and the pretrained encoder must hear in the converted speech what it
  heard in the source. At inference nothing of it is left.

Two more cost less: ``mel`` is a converter of the released kind, which streams, and ``mel_feature_loss`` the
same with that loss. No arm has a critic: it would take most of the time, and is the same in all. Every
finished run is kept in OUT and never repeated; one that was cut off continues. Curves are in OUT, too.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from w2w.cluit.halves import decode, encode
from w2w.networks.content import ContentConfig

from data.batches import Address, Batch, DataConfig, SpeechCrops, batches
from engine.arguments import Arguments
from engine.loop import LoopConfig, fit
from engine.optim import OptimConfig
from engine.user_error import UserError, exits_cleanly
from eval.cache import Cache
from eval.leakage import content_code, log_mel, speaker_leakage
from eval.outputs import Voices, make_outputs
from eval.pairs import MAX_PAIRS, Pair, fixed_pairs
from eval.recognisers import TrainedRecogniser
from eval.scoring import Judges, score_pairs
from experiments.pretraining.report import curves, table
from pretrain.recogniser import RELEASED
from w2w.cluit.config import CLUITConfig, Weights
from w2w.cluit.content_loss import ContentLoss, ContentLossConfig
from w2w.cluit.recognisers import SpeechFeatures
from w2w.cluit.task import CLUIT
from w2w.converter import Converter
from w2w.export import export_run
from w2w.networks.decoder import DecoderConfig
from w2w.networks.discriminator import CriticConfig
from w2w.networks.network import ConverterConfig
from w2w.networks.style import StyleConfig
from w2w.pretrained import PretrainedConfig, with_encoders
from w2w.train import TrainConfig, build

ARMS = ("none", "frozen", "fine_tuned", "feature_loss", "mel", "mel_feature_loss")
FEATURE_WEIGHT = 4.0
"""Of the feature loss, as of the released converter's content loss."""
LEARNED_FROM = 6
"""Utterances of a speaker that the leakage probe learns from, at most."""
N_LOOKS = 8
"""Points of a learning curve."""

BASE = TrainConfig(
    data=DataConfig(batch=6, crop_samples=16_000, reference_samples=20_000, equal_speakers=True),
    converter=ConverterConfig(
        content=ContentConfig(n_channels=96, n_blocks=3),
        style=StyleConfig(n_channels=64, n_blocks=2, n_tokens=6, token_dim=24),
        decoder=DecoderConfig(n_channels=128, n_blocks=6),
    ),
    critic=CriticConfig(n_scales=1, n_channels=4, max_channels=8, n_strided=2, projection_dim=8),
    cluit=CLUITConfig(
        weights=Weights(
            adversarial=0.0,
            feature_matching=0.0,
            contrast_critic=0.0,
            contrast_converter=0.0,
            contrast_voice=2.0,
            content=0.0,
        ),
        code_noise=0.05,
        bank_size=512,
        ema=0.99,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all runs share."""

    data: Path
    encoder: str
    out: Path
    steps: int
    pairs: int


def arm(name: str, bench: Bench, seed: int) -> TrainConfig:
    """The trainer's config of one run."""
    uses: dict[str, Any] = {
        "none": "random",
        "frozen": "frozen",
        "fine_tuned": "fine_tuned",
        "feature_loss": "random",
    }
    steps, config = bench.steps, BASE
    loop = LoopConfig(
        out=bench.out / name / str(seed),
        steps=steps,
        seed=seed,
        save_every=max(steps // 2, 1),
        sample_every=max(steps // N_LOOKS, 1),
        keep=1,
        mixed_precision="bf16",
        cpu=not torch.cuda.is_available(),
        trackers="none",
    )
    optim = OptimConfig(
        lr=1e-3,
        betas=(0.8, 0.99),
        gradient_clip=5.0,
        warmup_steps=max(steps // 10, 1),
        schedule="cosine",
        decay_steps=steps,
        final=0.05,
    )
    if name in uses:
        config = replace(
            config,
            pretrained=PretrainedConfig(content=bench.encoder, use=uses[name], frozen_steps=steps // 10),
        )
    if name.endswith("feature_loss"):
        config = replace(
            config,
            content=ContentLossConfig(backend=SpeechFeatures(folder=bench.encoder)),
            cluit=replace(config.cluit, weights=replace(config.cluit.weights, content=FEATURE_WEIGHT)),
        )
    return replace(
        config,
        loop=loop,
        optim_converter=optim,
        data=replace(config.data, path=str(bench.data)),
        cluit=replace(config.cluit, convert_from=steps // 4, adversary_from=10**9),
        converter=with_encoders(config.converter, config.pretrained),
    )


class Watched:
    """The trainer's task, whose averaged converter is looked at on speech that is not trained on."""

    def __init__(self, task: CLUIT, held_out: Batch, curve: Path) -> None:
        self.task, self.held_out, self.curve = task, held_out, curve
        self.players, self.modules, self.update = task.players, task.modules, task.update
        self.ears = ContentLoss(ContentLossConfig(features=0.0, posteriors=1.0), task.shape.sample_rate)
        self.frozen = {**task.frozen, "ears": self.ears}

    def evaluate(self, step: int) -> dict[str, float]:
        """Distance of speech rebuilt with its own voice; nats a frame by which phones change in another."""
        network: Any = self.task.converter_ema.module
        device = next(network.parameters()).device
        wave, other = self.held_out.wave.to(device), self.held_out.other.to(device)
        voice, encoded = network.style(other), encode(network, wave)
        rebuilt = decode(network, encoded, voice, wave.shape[-1], own_pitch=True)
        converted = decode(network, encoded, voice.roll(1, 0), wave.shape[-1])
        found = {
            "reconstruction": float(self.task.distance(rebuilt, wave)),
            "phones": float(self.ears.terms(converted, wave)["posteriors"]),
        }
        with self.curve.open("a") as file:
            file.write(json.dumps({"step": step, **found}) + "\n")
        return found


def train(config: TrainConfig) -> float:
    """Train one run, or what is left of it; return the processor's seconds."""
    began, run = time.process_time(), config.loop.out
    run.mkdir(parents=True, exist_ok=True)
    clips = SpeechCrops(replace(config.data, split="validation", batch=16), progress=False)
    held_out = clips[Address(seed=0, step=0)]
    crops = batches(config.data, config.loop.seed)
    fit(lambda: Watched(build(config), held_out, run / "curve.jsonl"), crops, config.loop, full_config=config)
    export_run(run, run / "export")
    return time.process_time() - began


def judged(folder: Path, name: str, pairs: Sequence[Pair], cache: Cache, data: Path) -> dict[str, Any]:
    """Scores of a converter's outputs, and how much its code leaks."""
    converter: Any = Converter.from_pretrained(folder)
    scored = make_outputs(pairs, Voices(converter), folder.parent / "outputs", name)
    leak = speaker_leakage({name: content_code(converter.network)}, data, per_speaker=LEARNED_FROM)[name]
    return {**scores(scored, cache), "leak_linear": leak.linear, "leak_mlp": leak.mlp}


def scores(pairs: Sequence[Pair], cache: Cache) -> dict[str, float]:
    """Means over pairs.

    Besides letters by Moonshine, the share of phones that our recogniser hears otherwise than in the
    source, which is less noisy; no arm was trained to please it.
    """
    _, summary = score_pairs(pairs, ("similarity", "pitch", "intelligibility"), cache=cache, jobs=1)
    ours = Judges(recognisers=(TrainedRecogniser(str(RELEASED)),))
    _, phones = score_pairs(pairs, ("intelligibility",), judges=ours, cache=cache, jobs=1)
    (means,) = summary.values()
    (heard,) = phones.values()
    wanted = ("to_target", "to_source", "nearer_to_target", "f0_distance", "f0_correlation", "cer")
    found = {column: means[column]["mean"] for column in wanted}
    return {**found, "phones_changed": heard["phones_changed"]["mean"]}


def one(name: str, seed: int, bench: Bench, pairs: Sequence[Pair], cache: Cache) -> dict[str, Any]:
    """The result of one run, from its file where it is finished."""
    run = bench.out / name / str(seed)
    result = run / "result.json"
    asked = {"arm": name, "seed": seed, "steps": bench.steps, "pairs": bench.pairs, "encoder": bench.encoder}
    if result.is_file():
        found = json.loads(result.read_text())
        if {key: found.get(key) for key in asked} != asked:
            raise UserError(f"{result} is of another benchmark: choose another --out, or give its options")
        return found
    seconds = train(arm(name, bench, seed))
    found = {**asked, "seconds": seconds, **judged(run / "export", name, pairs, cache, bench.data)}
    result.write_text(json.dumps(found, indent=2) + "\n")
    return found


def originals(bench: Bench, pairs: Sequence[Pair], cache: Cache) -> dict[str, Any]:
    """The sources themselves, as if they were outputs, and how much log-mels tell of the speaker."""
    path = bench.out / f"originals_{bench.pairs}.json"
    if not path.is_file():
        found = scores([replace(pair, system="source", output=pair.source) for pair in pairs], cache)
        leak = speaker_leakage({"log-mel": log_mel()}, bench.data, per_speaker=LEARNED_FROM)["log-mel"]
        found |= {"leak_linear": leak.linear, "leak_mlp": leak.mlp, "chance": leak.chance}
        path.write_text(json.dumps(found, indent=2) + "\n")
    return json.loads(path.read_text())


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Train, score and compare all arms."""
    parser = Arguments.described_by("experiments.pretraining", __doc__)
    parser.add_argument("--data", type=Path, required=True, help="manifest with speakers, texts and splits")
    parser.add_argument("--speech-encoder", required=True, help="run of pretrain/data2vec.py, or its export")
    parser.add_argument("--out", type=Path, default=Path("runs/arms"))
    parser.add_argument("--steps", type=int, default=400, help="of every run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=18, help=f"of the fixed {MAX_PAIRS}, evenly spread")
    parser.add_argument("--arms", default=",".join(ARMS), help="separated by commas")
    parser.add_argument("--cache", type=Path, help="folder of the judges' features kept between runs")
    words = parser.parse_args(argv)
    arms = tuple(words.arms.split(","))
    if unknown := [name for name in arms if name not in ARMS]:
        raise UserError(f"--arms has no {unknown[0]!r}; choose from {','.join(ARMS)}")
    if min(words.steps, words.seeds, words.pairs) < 1 or words.pairs > MAX_PAIRS:
        raise UserError(f"--steps, --seeds and --pairs must be at least 1, --pairs at most {MAX_PAIRS}")
    bench = Bench(
        data=words.data, encoder=words.speech_encoder, out=words.out, steps=words.steps, pairs=words.pairs
    )
    listed = fixed_pairs(words.data)
    pairs = [listed[i * len(listed) // words.pairs] for i in range(words.pairs)]
    cache = Cache(words.cache)
    words.out.mkdir(parents=True, exist_ok=True)
    # Seed by seed, so that a table of fewer seeds is there early.
    found: list[dict[str, Any]] = []
    for seed in range(words.seeds):
        for name in arms:
            found.append(one(name, seed, bench, pairs, cache))
            text = table(found, originals(bench, pairs, cache), arms)
            (words.out / "table.md").write_text(text + "\n")
            print(text, flush=True)
        curves(words.out, arms, range(seed + 1))


if __name__ == "__main__":
    main()
