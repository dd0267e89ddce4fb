"""The CTC training task: from scratch or on a pretrained encoder, with full or partial labels."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from engine.optim import EMA, Player
from engine.tracking import Samples
from pretrain import spectral_augment
from pretrain.ctc_score import error_rates, total
from pretrain.recogniser import Recogniser, RecogniserConfig
from pretrain.spectral_augment import AugmentConfig, FrameAugmentConfig, change_wave_speed, mask_frames
from pretrain.speech.encoder import Encoded
from pretrain.speech.labelled import Labelled, LabelledSpeech
from pretrain.speech.loading import SpeechRecogniser, load_speech_encoder
from pretrain.speech.recognition_config import CTCConfig, resolved
from pretrain.units import RecogniserOutput, ctc_losses, greedy, mean_per_unit


class Recognition:
    """The training task: CTC on labelled rows, and on unlabelled rows with transcripts of the EMA network.

    From step ``agree_from`` on, optional consistency losses compare the posteriors and features of two
    augmented views of each utterance.
    """

    def __init__(
        self,
        config: CTCConfig,
        validation: LabelledSpeech | None = None,
        on_evaluation: Callable[[int, float], None] | None = None,
    ) -> None:
        self.config, self.validation, self.on_evaluation = resolved(config), validation, on_evaluation
        self.recogniser = _network(self.config)
        self.players = _players(self.recogniser, self.config)
        self.ema = EMA(self.recogniser, config.ema)
        self.average: Any = self.ema.module
        self.modules: dict[str, nn.Module] = {"recogniser": self.recogniser, "ema": self.ema.module}

    def update(self, batch: Labelled, step: int) -> Mapping[str, Tensor]:
        weights = self.config.weights
        pseudo = step >= self.config.pseudo_from and weights.pseudo_ctc > 0
        if not pseudo and bool(batch.labelled.any()):
            batch = Labelled(*(part[batch.labelled] for part in batch))
        tokens, n_tokens = self.targets(batch) if pseudo else (batch.tokens, batch.n_tokens)
        n_views = 2 if step >= self.config.agree_from and (weights.agreement or weights.features) else 1
        trains_encoder = "trunk" in self.players and step >= self.config.freeze.trunk_steps

        output = self.forward(batch, n_views, trains_encoder=trains_encoder)
        n_targets, labelled = n_tokens.repeat(n_views), batch.labelled.repeat(n_views)
        losses = ctc_losses(output, tokens.repeat(n_views, 1), n_targets)
        ctc = mean_per_unit(losses, n_targets, labelled)
        pseudo_ctc = mean_per_unit(losses, n_targets, ~labelled)
        agreement = features = ctc.new_zeros(())
        if n_views == 2:
            agreement = disagreement(output) / n_tokens.sum()
            features = feature_distance(output)

        loss = weights.ctc * ctc + weights.pseudo_ctc * pseudo_ctc
        loss = loss + weights.agreement * agreement + weights.features * features
        if trains_encoder:  # first: its gradient passes through the head's current weights
            self.players["trunk"].step(loss, retain_graph=True)
        self.players["head"].step(loss)
        self.ema.update(step)
        terms = {"ctc": ctc, "pseudo_ctc": pseudo_ctc, "agreement": agreement, "features": features}
        return {f"loss/recogniser/{name}": value.detach() for name, value in terms.items()}

    def forward(self, batch: Labelled, n_views: int, *, trains_encoder: bool) -> RecogniserOutput:
        """Run the network on augmented views of a batch with equal tempo, stacked along the batch axis."""
        self.recogniser.train()
        match self.recogniser, self.config.augment:
            case Recogniser() as network, AugmentConfig() as augment:
                return _mel_views(network, batch, augment, n_views)
            case SpeechRecogniser() as network, FrameAugmentConfig() as augment:
                network.encoder.train(trains_encoder)
                convolutions = trains_encoder and not self.config.freeze.convolutions
                return _encoder_views(network, batch, augment, n_views, (convolutions, trains_encoder))
        raise AssertionError

    @torch.no_grad()
    def targets(self, batch: Labelled) -> tuple[Int[Tensor, "batch longest"], Int[Tensor, "batch"]]:
        """Return the labels, with transcripts of the EMA network for rows without a label."""
        rows = (~batch.labelled).nonzero()[:, 0]
        if not len(rows):
            return batch.tokens, batch.n_tokens
        transcripts = greedy(self.average(batch.wave[rows], batch.samples[rows]))
        longest = max(batch.tokens.shape[1], *map(len, transcripts))
        tokens = F.pad(batch.tokens, (0, longest - batch.tokens.shape[1])).clone()
        n_tokens = batch.n_tokens.clone()
        for row, transcript in zip(rows.tolist(), transcripts):
            tokens[row, : len(transcript)] = tokens.new_tensor(transcript)
            n_tokens[row] = len(transcript)
        return tokens, n_tokens

    def evaluate(self, step: int) -> dict[str, float]:
        """Return the error rate of the EMA weights on the validation split, in percent."""
        if self.validation is None:
            return {}
        rate = 100 * total(error_rates(self.average, self.validation).values()).rate
        if self.on_evaluation is not None:
            self.on_evaluation(step, rate)
        return {f"{self.average.units.name}_error_rate": rate}

    def samples(self, step: int) -> Samples:
        """Return the posteriors of the first validation utterance."""
        if self.validation is None:
            return Samples()
        batch = self.validation.collate(self.validation.order[:1])
        output = self.average(batch.wave.to(next(self.average.parameters()).device))
        return Samples(mels={"log-posteriors": output.log_probs[0].T.clamp(min=-8.0)})


def _network(config: CTCConfig) -> Recogniser | SpeechRecogniser:
    if isinstance(config.model, RecogniserConfig):
        return Recogniser(config.model)
    network = SpeechRecogniser(config.model)
    if config.init:
        network.encoder.load_state_dict(load_speech_encoder(config.init).state_dict())
    network.encoder.requires_grad_(not config.freeze.trunk)
    if config.freeze.convolutions:
        network.encoder.trunk.feature_extractor.requires_grad_(False)
    return network


def _players(network: Recogniser | SpeechRecogniser, config: CTCConfig) -> dict[str, Player]:
    """Return the optimisers: ``head`` for a small network, ``head`` and ``trunk`` for one on an encoder."""
    if isinstance(network, Recogniser):
        return {"head": Player(network, config.optim, "head")}
    head_parameters = [p for name, p in network.named_parameters() if not name.startswith("encoder.")]
    players = {"head": Player(nn.ParameterList(head_parameters), config.head, "head")}
    if not config.freeze.trunk:
        players["trunk"] = Player(network.encoder, config.optim, "trunk")
    return players


def _mel_views(
    network: Recogniser, batch: Labelled, augment: AugmentConfig, n_views: int
) -> RecogniserOutput:
    """Return the output for views with the same tempo, but different voice, noise, channel and masks."""
    with torch.no_grad():
        mel = network.log_mel(batch.wave)
        lengths = network.valid_frames(batch.samples, mel).sum(1)
        mel, lengths = spectral_augment.change_speed(mel, lengths, augment.speed)
        valid = torch.arange(mel.shape[-1], device=mel.device) < lengths[:, None]
        views = []
        for _ in range(n_views):
            view = spectral_augment.warp_frequency(mel, network.config.mel, augment.warp)
            view = spectral_augment.add_noise(view, augment.noise_share, augment.snr_db)
            view = spectral_augment.equalise(network.normalise(view, valid), augment.equaliser)
            views.append(spectral_augment.mask(view, augment))
    return network.from_normalised(torch.cat(views), valid.repeat(n_views, 1))


def _encoder_views(
    network: SpeechRecogniser,
    batch: Labelled,
    augment: FrameAugmentConfig,
    n_views: int,
    trains: tuple[bool, bool],
) -> RecogniserOutput:
    """Return the output for views with different masks; ``trains``: the convolutions, the whole encoder."""
    encoder = network.encoder
    wave, samples = change_wave_speed(batch.wave, batch.samples, augment.speed)
    with torch.set_grad_enabled(trains[0]):
        local = encoder.local(wave, samples)
    with torch.set_grad_enabled(trains[1]):
        frames, mask_vector = encoder.project(local), encoder.trunk.masked_spec_embed
        views = torch.cat([mask_frames(frames, mask_vector, augment) for _ in range(n_views)])
        valid = encoder.valid_frames(samples, local).repeat(n_views, 1)
        features = encoder.layers(encoder.position(views, valid), valid)
    return network.read(Encoded(features, features[-1], valid))


def disagreement(output: RecogniserOutput) -> Float[Tensor, ""]:
    """Return the mean KL divergence of each view from the other, detached one, summed over frames."""
    log_probs, valid = output.log_probs, output.valid
    assert valid is not None
    other = log_probs.detach().roll(len(log_probs) // 2, 0)
    divergence = F.kl_div(log_probs, other, log_target=True, reduction="none").sum(-1)
    return (divergence * valid).sum() / 2


def feature_distance(output: RecogniserOutput) -> Float[Tensor, ""]:
    """Return 1 − cosine similarity between two views, averaged over the deeper half of the layers."""
    assert output.valid is not None
    distances = []
    for feature in output.features[len(output.features) // 2 :]:
        one, other = F.layer_norm(feature.float().transpose(1, 2), feature.shape[1:2]).chunk(2)
        cosine = F.cosine_similarity(one, other, dim=-1)
        distances.append((1 - cosine)[output.valid[: len(cosine)]].mean())
    return torch.stack(distances).mean()
