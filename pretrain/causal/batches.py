"""What one step of distillation hears: speech, time-aligned pairs and transcribed speech of one address."""

from typing import NamedTuple

from torch.utils.data import Dataset

from data.batches import Address, Batch, SpeechCrops, StreamedCrops
from data.pairs import PairBatch, PairCrops, Together
from data.shards import ShardStream
from pretrain.speech.labelled import Labelled, LabelledSpeech


class Lesson(NamedTuple):
    """One step's speech."""

    human: Batch
    pairs: PairBatch | None = None
    transcribed: Labelled | None = None


class Lessons(Dataset[Lesson]):
    """Lessons by address."""

    def __init__(
        self,
        human: SpeechCrops | StreamedCrops,
        pairs: PairCrops | StreamedCrops | None = None,
        transcribed: LabelledSpeech | ShardStream[LabelledSpeech] | None = None,
    ) -> None:
        self.together, self.transcribed = Together(human, pairs), transcribed

    def __getitem__(self, address: Address) -> Lesson:
        human, pairs = self.together[address]
        return Lesson(human, pairs, None if self.transcribed is None else self.transcribed[address])
