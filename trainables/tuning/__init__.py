"""Tuning of a backbone to the responses of one target."""
