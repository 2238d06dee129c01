"""The one error that the toolkit expects: a mistake that its user can act on."""


class UserError(Exception):
    """A mistake that a person can act on: printed as a sentence, without a traceback; exit 1."""
