"""What wave-to-wave conversion is measured against: CLUIT on mels and StarGAN, each with a vocoder."""
