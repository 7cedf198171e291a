"""A release while it flies: what a look finds, what is kept beside its traffic, who settles it, who tells of it."""
