"""What is measured of models that are already selected; the only rooms that see test stimuli."""
