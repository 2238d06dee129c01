"""Count a data set's pictures by part and domain, and name what is wrong with them.

    python data.py data/demo
    python data.py data/celebrities --domain-pattern '(?P<domain>photo|drawing)_'

The first opens and checks every picture and prints

    part      domain      pictures    readable  identities
    --------  --------  ----------  ----------  ------------
    gallery   gallery          400         400  unknown
    query     query            120         120  unknown
    training  flat              80          80  80
    …

Above the table, files that cannot be read, truncated pictures, empty folders, files outside of an
identity's folder and identities with a single picture are counted and named. Two pictures of one
name in the query or in the gallery are an error. The parts of this program are in lookalike/data.
"""

import sys

from lookalike.cli import call

if __name__ == "__main__":
    sys.exit(call("lookalike.data.catalogue_tool:main", sys.argv[1:]))
