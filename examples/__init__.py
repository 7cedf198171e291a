"""Real models on real data, whole: description, training, traffic and the story ``windtunnel demo`` tells."""
