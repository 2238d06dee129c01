"""Get a competition into data/: an archive, a folder of class folders, LFW, IMDB-WIKI or the demo.

python data_extraction.py --source demo
python data_extraction.py --source archive --source-path faces.zip --data data/faces
"""

import sys

from lookalike.data.extraction import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
