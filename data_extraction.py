"""Lay a competition out in data/: an archive, class folders, LFW, IMDB-WIKI or the built-in demo.

    python data_extraction.py --source demo
    python data_extraction.py --source archive --source-path faces.zip --data data/faces

The first draws training/<identity>/, test/query/ and test/gallery/ and says

    laid out data/demo from demo

Once more, it finds the folder in place and does nothing. Sources and layouts are in lookalike/data.
"""

import sys

from lookalike.cli import call

if __name__ == "__main__":
    sys.exit(call("lookalike.data.extraction:main", sys.argv[1:]))
