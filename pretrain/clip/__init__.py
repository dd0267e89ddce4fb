"""Audio encoders learned from pictures: Wav2CLIP, AudioCLIP and the world that tests them."""
