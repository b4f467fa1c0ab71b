"""Clusters to run on, and the profiles that turn a cluster's resources into slots."""
