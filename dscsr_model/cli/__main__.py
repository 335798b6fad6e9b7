"""``python -m dscsr_model.cli``, which is also what torchrun starts."""

import sys

from dscsr_model.cli import main

if __name__ == "__main__":
    sys.exit(main())
