"""A 1-layer transformer decoder for captioning sounds from frozen features (Wu et al., 2022, section 3.4)."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from engine.seeding import step_seed
from pretrain.probe.captioning_scores import END, PAD, START, UNKNOWN, Vocabulary


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Sizes, training and beam search of the decoder."""

    width: int = 192
    """Model width; a multiple of 2 · heads."""
    heads: int = 4
    hidden: int = 512
    dropout: float = 0.2
    longest: int = 30
    """Maximum number of words in a caption."""
    lr: float = 1e-3
    """AdamW's peak learning rate; decays to zero along a cosine."""
    weight_decay: float = 1e-2
    smoothing: float = 0.1
    """Label smoothing."""
    batch: int = 64
    epochs: int = 30
    """Passes over the training clips, each with one random caption per clip."""
    beam: int = 3
    """Beam width; 1: greedy decoding."""


Tokens = Int[Tensor, "batch length"]
Logits = Float[Tensor, "batch length n_words"]
Memory = tuple[Float[Tensor, "batch frames width"], Bool[Tensor, "batch frames"]]
"""What a decoder attends to, and its padding mask."""


class Features(NamedTuple):
    """An encoder's embedding and frames of each clip."""

    clip: Float[Tensor, "clips dim"]
    frames: Float[Tensor, "clips frames channels"]
    valid: Bool[Tensor, "clips frames"]

    def rows(self, index: Int[Tensor, "batch"]) -> "Features":
        return Features(self.clip[index], self.frames[index], self.valid[index])


class CaptionDecoder(nn.Module):
    """A transformer decoder that predicts the next word from the previous words and the features."""

    clip_mean: Tensor
    clip_scale: Tensor
    frames_mean: Tensor
    frames_scale: Tensor

    def __init__(self, config: DecoderConfig, train: Features, n_words: int) -> None:
        super().__init__()
        self.config = config
        for name, values in (("clip", train.clip), ("frames", train.frames[train.valid])):
            self.register_buffer(f"{name}_mean", values.mean(0))
            self.register_buffer(f"{name}_scale", values.std(0, correction=0).clamp_min(1e-6))
        width = config.width
        self.from_clip = nn.Linear(train.clip.shape[-1], width)
        self.from_frames = nn.Linear(train.frames.shape[-1], width)
        self.words = nn.Embedding(n_words, width, padding_idx=PAD)
        nn.init.normal_(self.words.weight, std=width**-0.5)
        self.layer = nn.TransformerDecoderLayer(
            width, config.heads, config.hidden, config.dropout, batch_first=True, norm_first=True
        )
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(config.dropout)

    def forward(self, features: Features, tokens: Tokens) -> Logits:
        """Return the logits of the word after each of ``tokens``."""
        return self.decode(self.memory(features), tokens)

    def memory(self, features: Features) -> Memory:
        clip = self.from_clip((features.clip - self.clip_mean) / self.clip_scale)
        frames = self.from_frames((features.frames - self.frames_mean) / self.frames_scale)
        frames = frames + positions(frames.shape[1], frames.shape[2], frames.device)
        ignored = F.pad(~features.valid, (1, 0), value=False)
        return torch.cat([clip[:, None], frames], dim=1), ignored

    def decode(self, memory: Memory, tokens: Tokens) -> Logits:
        length, width = tokens.shape[1], self.config.width
        x = self.words(tokens) * math.sqrt(width) + positions(length, width, tokens.device)
        future = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
        x = self.layer(self.dropout(x), memory[0], tgt_mask=future, memory_key_padding_mask=memory[1])
        return F.linear(self.norm(x), self.words.weight)

    @torch.no_grad()
    def captions(self, features: Features, vocabulary: Vocabulary) -> list[str]:
        """Caption each clip by beam search; hypotheses are ranked by log-likelihood per word."""
        self.eval()
        parts = torch.arange(len(features.clip), device=features.clip.device).split(64)
        return [caption for part in parts for caption in self._search(features.rows(part), vocabulary)]

    def _search(self, features: Features, vocabulary: Vocabulary) -> list[str]:
        beam, n_clips = self.config.beam, len(features.clip)
        frames, ignored = (part.repeat_interleave(beam, dim=0) for part in self.memory(features))
        device = frames.device
        tokens = torch.full((n_clips * beam, 1), START, device=device)
        likelihood = torch.full((n_clips, beam), -math.inf, device=device)
        likelihood[:, 0] = 0.0  # all hypotheses are equal at first
        ended = torch.zeros(n_clips, beam, dtype=torch.bool, device=device)
        for _ in range(self.config.longest + 1):
            logits = self.decode((frames, ignored), tokens)[:, -1]
            logits[:, [PAD, START, UNKNOWN]] = -math.inf
            following = rearrange(logits.log_softmax(-1), "(clip beam) word -> clip beam word", beam=beam)
            following[ended] = -math.inf  # a complete caption is only padded
            following[..., PAD] = following[..., PAD].masked_fill(ended, 0.0)
            likelihood, best = (likelihood[..., None] + following).flatten(1).topk(beam)
            origin, word = best // following.shape[-1], best % following.shape[-1]
            rows = origin + beam * torch.arange(n_clips, device=best.device)[:, None]
            tokens = torch.cat([tokens[rows.flatten()], word.reshape(-1, 1)], dim=1)
            ended = ended.gather(1, origin) | (word == END)
            if ended.all():
                break
        sequences = rearrange(tokens, "(clip beam) word -> clip beam word", beam=beam)
        best = (likelihood / (sequences != PAD).sum(-1)).argmax(-1)
        return [vocabulary.caption(rows[index].tolist()) for rows, index in zip(sequences, best)]


def positions(length: int, width: int, device: torch.device) -> Float[Tensor, "length width"]:
    """Return sinusoidal position embeddings (Vaswani et al., 2017)."""
    place = torch.arange(length, device=device)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000.0) / width))
    return torch.cat([torch.sin(place * rate), torch.cos(place * rate)], dim=-1)


def caption_loss(
    decoder: CaptionDecoder, features: Features, tokens: Tokens, smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Return the cross-entropy per word, given the previous words."""
    logits, following = decoder(features, tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()
    return F.cross_entropy(logits, following, ignore_index=PAD, label_smoothing=smoothing)


Captions = Sequence[tuple[str, ...]]


def fit_decoder(
    train: tuple[Features, Captions],
    validation: tuple[Features, Captions],
    vocabulary: Vocabulary,
    *,
    seed: int,
    config: DecoderConfig,
) -> CaptionDecoder:
    """Train on (features, captions of each clip) and return the decoder with the lowest validation loss."""
    features, captions = train
    device, n_clips = features.clip.device, len(captions)
    fixed = vocabulary.tokens([c[0] for c in validation[1]], longest=config.longest).to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(seed, 0))
        decoder = CaptionDecoder(config, features, len(vocabulary)).to(device)
        settings = {"lr": config.lr, "weight_decay": config.weight_decay, "betas": (0.9, 0.98)}
        optimizer = torch.optim.AdamW(decoder.parameters(), **settings)
        n_steps = config.epochs * -(-n_clips // config.batch)

        def factor(step: int) -> float:
            return min(1.0, (step + 1) / 50) * (1 + math.cos(math.pi * step / n_steps)) / 2

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        best, best_loss = copy.deepcopy(decoder.state_dict()), math.inf
        bar = tqdm(range(config.epochs), desc="captioning", delay=2.0)
        for _ in bar:
            decoder.train()
            for index in torch.randperm(n_clips).split(config.batch):
                draw = torch.rand(len(index)).tolist()
                references = [captions[i] for i in index.tolist()]
                chosen = [some[int(u * len(some))] for some, u in zip(references, draw)]
                tokens = vocabulary.tokens(chosen, longest=config.longest).to(device)
                loss = caption_loss(decoder, features.rows(index.to(device)), tokens, config.smoothing)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
                optimizer.step()
                schedule.step()
            decoder.eval()
            with torch.no_grad():
                validation_loss = caption_loss(decoder, validation[0], fixed).item()
            bar.set_postfix(validation=round(validation_loss, 3))
            if validation_loss < best_loss:
                best, best_loss = copy.deepcopy(decoder.state_dict()), validation_loss
    decoder.load_state_dict(best)
    return decoder.eval().requires_grad_(False)
