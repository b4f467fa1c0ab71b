"""Encoding models: from features at a readout layer to voxel responses."""
