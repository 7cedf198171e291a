"""What is written down for ever: the audit and its checkpoints, the outbox of events, verdicts."""
