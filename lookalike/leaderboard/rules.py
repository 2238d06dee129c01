"""The rules of a leaderboard: names of groups, how often they may send, how exact scores are."""

import hashlib
import hmac
import ipaddress
import json
import math
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Iterable

from lookalike.core.errors import UserError
from lookalike.evaluation.submissions import Submission

MAX_NAME_LENGTH = 64
MINUTE = 60.0
# A regression over 240 random posts finds a right picture of 11 of 12 queries by exact scores, of 9
# with steps of two queries, of 5 with four, and of 2 with ten; a guess finds that of 1.
QUERIES_OF_STEP = 10
MAX_REMEMBERED = 10_000  # keys of a rate limit, at once
# Letters of other scripts that look like Latin ones, and signs that look like letters.
CYRILLIC = (
    "\u0430\u0435\u043a\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u04cf\u0501\u051b\u051d"
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u0406\u0408\u0405"
)
GREEK = (
    "\u03b1\u03bf\u03c1\u03bd\u03b9\u03ba\u03c5"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7"
)
LATIN = "aekopcyxijsldqwABEKMHOPCTYXIJSaopvikuABEZHIKMNOPTYX"
LOOKALIKES = str.maketrans(f"{CYRILLIC}{GREEK}01|", f"{LATIN}oll")
# Parts of names in Unicode of characters that nobody sees although they are letters or marks.
UNSEEN = ("FILLER", "BLANK", "VARIATION SELECTOR", "GRAPHEME JOINER", "INHERENT")
MAX_MARKS = 3  # on a letter; more run over the lines of the page
# Scripts that are written together.
TOGETHER = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "KATAKANA-HIRAGANA": "CJK"}


# ---- names --------------------------------------------------------------------------------------


def checked_name(name: str) -> str:
    """Return a group's name as it is shown: in one form of Unicode, without spare spaces.

    Raises:
        UserError: It is empty or too long, holds characters that nobody sees, or letters of
            several scripts.

    >>> checked_name("  the  \uff21 team ")
    'the A team'
    """
    shown = _in_one_form(name)
    if not 1 <= len(shown) <= MAX_NAME_LENGTH or not shown.isprintable():
        raise UserError(f"groupname must be 1 to {MAX_NAME_LENGTH} printable characters")
    kinds = [unicodedata.category(c) for c in shown]
    if {"Cf", "Co", "Cn", "Me"} & {*kinds} or all(kind[0] in "MZ" for kind in kinds):
        raise UserError("groupname must hold no invisible characters")
    if any(part in unicodedata.name(c, "") for c in shown for part in UNSEEN):
        raise UserError("groupname must hold no invisible characters")
    if (MAX_MARKS + 1) * "M" in "".join(kind[0] for kind in kinds):
        raise UserError(f"groupname must have at most {MAX_MARKS} marks on a letter")
    scripts = {_script(c) for c in shown if c.isalpha()}
    if len(scripts) > 1:
        raise UserError(f"groupname must be of one script, not {', '.join(sorted(scripts))}")
    return shown


def _in_one_form(name: str) -> str:
    """Return a name in one form of Unicode, without spare spaces."""
    return " ".join(unicodedata.normalize("NFKC", name).split())


def _script(letter: str) -> str:
    """Return the script of a letter, by the first word of its name in Unicode."""
    script = unicodedata.name(letter, "UNKNOWN").partition(" ")[0]
    return TOGETHER.get(script, script)


def skeleton(name: str) -> str:
    """Return what is left of a name for the eye: names of one skeleton look alike.

    >>> skeleton("Team-A") == skeleton("TEAM \u0410")
    True
    """
    # Letters are replaced as they are written: a capital may look like another letter than its
    # small form does.
    plain = unicodedata.normalize("NFKD", name).translate(LOOKALIKES).casefold()
    return "".join(c for c in plain if c.isalnum()) or plain


class Groups:
    """The groups of a leaderboard: one for each name that can be told from the others."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names: dict[str, str] = {}
        self._looks: dict[str, str] = {}
        self._lock = threading.Lock()
        for name in names:
            self.add(name)

    def known(self, name: str) -> str:
        """Return the group that a name means, as it was first written.

        Raises:
            UserError: The name cannot be used, or looks like that of another group.
        """
        shown = checked_name(name)
        with self._lock:
            known = self._names.get(shown.casefold())
            similar = self._looks.get(skeleton(shown))
        if known is None and similar is not None:
            raise UserError(f"groupname looks like that of the group {similar!r}: choose another")
        return known or shown

    def add(self, name: str) -> None:
        """Add the group of an accepted submission."""
        with self._lock:
            self._names.setdefault(_in_one_form(name).casefold(), name)
            self._looks.setdefault(skeleton(name), name)


# ---- rates --------------------------------------------------------------------------------------


def sender(address: str) -> str:
    """Return whose address it is: of IPv6, a whole network of 64 bits is one sender's.

    >>> sender("10.0.0.1"), sender("2001:db8::7"), sender("::ffff:10.0.0.1")
    ('10.0.0.1', '2001:db8::/64', '10.0.0.1')
    """
    if ":" not in address:
        return address
    if mapped := ipaddress.IPv6Address(address).ipv4_mapped:
        return str(mapped)
    network = int(ipaddress.IPv6Address(address)) >> 64 << 64
    return str(ipaddress.IPv6Network((network, 64)))


class RateLimit:
    """A limit to what a key, such as an address, may do in a minute.

    Example:
        >>> limit = RateLimit(1)
        >>> limit.count("ada", now=100)
        >>> [limit.wait(key, now) for key, now in (("ada", 130), ("bo", 130), ("ada", 160))]
        [30.0, 0.0, 0.0]
    """

    def __init__(self, rate: int) -> None:
        """Set the limit; 0: there is none."""
        self.rate = rate
        self._times: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def wait(self, key: str, now: float | None = None) -> float:
        """Return the seconds until a key may act again; 0 where it may now.

        Args:
            key: The key.
            now: The time in seconds. Default: that of a monotonic clock.
        """
        now = time.monotonic() if now is None else now
        with self._lock:
            times = self._times.get(key)
            if not self.rate or times is None or len(times) < self.rate:
                return 0.0
            return max(0.0, times[0] + MINUTE - now)

    def count(self, key: str, now: float | None = None) -> None:
        """Count an act of a key."""
        if not self.rate:
            return
        now = time.monotonic() if now is None else now
        with self._lock:
            if len(self._times) > MAX_REMEMBERED:  # keys cost nothing: bound the memory
                self._times = {k: t for k, t in self._times.items() if t[-1] > now - MINUTE}
            self._times.setdefault(key, deque(maxlen=self.rate)).append(now)


# ---- scores -------------------------------------------------------------------------------------


def score_step(queries: int, highest: float = 1000.0, of: int = QUERIES_OF_STEP) -> float:
    """Return the step in which scores are given: that of ten queries, rounded up to 1, 2 or 5.

    Args:
        queries: Of the test.
        highest: The highest score.
        of: How many queries a step is worth, at least.

    >>> [score_step(queries) for queries in (900, 120, 3)]
    [20.0, 100.0, 1000.0]
    """
    least = of * highest / max(of, queries)
    power = 10.0 ** math.floor(math.log10(least))
    return min(highest, next(f * power for f in (1, 2, 5, 10) if f * power >= least))


def coarse(
    score: float, step: float, submission: Submission, secret: str, highest: float = 1000.0
) -> float:
    """Return a score as it is given: a multiple of the step, less than a step away.

    Whether it is rounded up or down is drawn for each submission as a whole, from a secret, with
    the odds that keep the mean. Whoever changes the list of a single query learns next to nothing
    of that query; plain rounding would tell it wherever a score lies at the edge of a step.

    Args:
        score: From 0 to the highest.
        step: See `score_step`.
        submission: What was scored.
        secret: Known to the leaderboard alone.
        highest: The highest score.
    """
    message = json.dumps(submission, sort_keys=True).encode("utf-8", "surrogatepass")
    digest = hmac.digest(secret.encode(), message, hashlib.sha256)
    drawn = int.from_bytes(digest[:8], "big") / 2**64
    return min(highest, math.floor(score / step + drawn) * step)
