"""Data sets: stimuli, responses and ROIs, and the split between what is fitted and what is scored."""
