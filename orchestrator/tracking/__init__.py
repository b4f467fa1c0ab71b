"""MLflow, and nothing else: what people look at. The only room that imports it."""
