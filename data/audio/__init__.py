"""Reading, writing and resampling of audio files, with one-sentence errors for files that cannot be used."""

from data.audio.decoding import EXTENSIONS, READ_ONLY, AudioError
from data.audio.reading import AudioInfo, audio_files, blocks, excerpt, info, load, unreadable
from data.audio.resampling import resample, resampled_length
from data.audio.writing import Writer, save

__all__ = [
    "EXTENSIONS",
    "READ_ONLY",
    "AudioError",
    "AudioInfo",
    "Writer",
    "audio_files",
    "blocks",
    "excerpt",
    "info",
    "load",
    "resample",
    "resampled_length",
    "save",
    "unreadable",
]
