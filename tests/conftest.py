import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import pack
import pytest
import torch
from seeds import SEED

torch.set_num_threads(1)
pack.load_pack()


def pytest_terminal_summary(terminalreporter):
    """How to have the same random choices again."""
    terminalreporter.write_line(f"What tests chose at random came from SADDLE_FREE_TEST_SEED={SEED}.")


@pytest.fixture(scope="session")
def host(tmp_path_factory):
    """The real ComfyUI, started once."""
    from host import Host

    return Host(tmp_path_factory.mktemp("comfyui"))
