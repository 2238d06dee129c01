"""TODO lookalike.core.errors."""


class UserError(Exception):
    """A mistake that a person can act on: printed as a sentence, without a traceback; exit 1."""
