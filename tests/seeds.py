"""The seed of everything that tests choose at random; conftest.py prints it."""

import os

SEED = int(os.environ.get("SADDLE_FREE_TEST_SEED", "20251121"))
