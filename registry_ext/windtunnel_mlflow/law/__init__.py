"""What a version needs before it may move: policies, approvals, and the way round them in an emergency."""
