"""What a vocoder's copy of a recording is worth: spectral distances, PESQ, pitch."""
