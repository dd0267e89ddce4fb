"""Audio encoders trained with images: Wav2CLIP, AudioCLIP and a study of them in a synthetic world."""
