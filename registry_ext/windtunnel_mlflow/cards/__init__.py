"""What people say of models and versions: cards, comments."""
