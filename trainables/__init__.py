"""The science: what one trial or one evaluation computes. Knows torch and NumPy, neither Tune nor MLflow."""
