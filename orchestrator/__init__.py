"""Runs trials and keeps their results; computes no science."""
