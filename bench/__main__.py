"""`python -m bench`: run the benchmark and print its tables."""

import sys

from bench.run import main

sys.exit(main(sys.argv[1:]))
