"""Programs that print the figures of docs/; none of them sends to a real leaderboard.

`$DATA` in their examples is a folder with the public data sets, see docs/data-and-licences.md.
"""

import os

for name in ("LEADERBOARD_URL", "LEADERBOARD_GROUP", "LEADERBOARD_TOKEN"):
    os.environ.pop(name, None)
