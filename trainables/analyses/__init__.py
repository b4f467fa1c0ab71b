"""What is computed over many models."""
