"""Who may do what: teams by their tokens, the organizer by a password.

Tokens are random and long (192 bits), so that a plain SHA-256 keeps them: nobody can try them all.
"""

import hashlib
import hmac
import os
import secrets

from lookalike.competition.store import AuditEntry, Store, Team
from lookalike.core.errors import UserError
from lookalike.leaderboard.rules import Groups

PASSWORD = "COMPETITION_PASSWORD"  # in the environment
SHORTEST_PASSWORD = 12


def new_token() -> str:
    """Return a random token, which nobody can guess."""
    return secrets.token_urlsafe(24)


def token_hash(token: str) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def add_team(
    store: Store, name: str, now: float, who: str = "organizer", address: str = ""
) -> tuple[Team, str]:
    """Add a team, and write it in the audit log.

    Args:
        store: What the competition keeps.
        name: The team's name.
        now: The time in seconds since the epoch.
        who: Who adds it.
        address: Where it signs up from; empty for this machine's own commands.

    Returns:
        The team, and its token, which is kept nowhere.

    Raises:
        UserError: The name cannot be used, is taken, or looks like another team's.
    """
    token, groups = new_token(), Groups(team.name for team in store.teams())
    known = groups.known(name)
    entry = AuditEntry(now, address, who, f"added the team {known}")
    return store.add_team(known, token_hash(token), entry), token


def same(given: str, known: str) -> bool:
    """Return whether two secrets are equal, in a time that does not tell how far they are."""
    return hmac.compare_digest(token_hash(given), token_hash(known))


def organizer_password() -> tuple[str, bool]:
    """Return the organizer's password, and whether it is new: from the environment, or random.

    Raises:
        UserError: That of the environment is too short.
    """
    given = os.environ.get(PASSWORD, "")
    if not given:
        return secrets.token_urlsafe(12), True
    if len(given) < SHORTEST_PASSWORD:
        raise UserError(f"{PASSWORD} must have at least {SHORTEST_PASSWORD} characters")
    return given, False
