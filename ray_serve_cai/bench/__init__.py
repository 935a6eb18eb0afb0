"""Load and start-up measurements, always as ratios to something measured in the same run."""
