"""``python -m profiles_schema``."""

import sys

from profiles_schema.cli import main

if __name__ == "__main__":
    sys.exit(main())
