"""Feature models: pretrained backbones, the heads they are tuned with, and tuned models on disk."""
