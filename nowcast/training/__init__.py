"""Training: windows of archives in, networks in checkpoints out."""
