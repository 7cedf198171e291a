"""A version's life: registered, sealed, signed, crowned, kept."""
