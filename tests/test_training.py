"""The training command: stopped in the middle, it goes on as if it had not been."""

from types import SimpleNamespace

import pytest
import train_demo
from safetensors.torch import load_file


def test_training_resumes_where_it_stopped(tmp_path, monkeypatch):
    def arguments(name):
        return SimpleNamespace(
            steps=6, batch=2, learning_rate=2e-3, save_every=2, checkpoint=tmp_path / f"{name}.pt",
            output=tmp_path / name,
        )

    train_demo.train(arguments("whole"))
    step = train_demo.Student.step

    def stop_at_four(student, index, *batch):
        if index == 4:
            raise KeyboardInterrupt
        step(student, index, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(train_demo.Student, "step", stop_at_four)
        with pytest.raises(KeyboardInterrupt):
            train_demo.train(arguments("halves"))
    assert not (tmp_path / "halves").exists()
    train_demo.train(arguments("halves"))
    for name in ("model", "weak"):
        whole, halves = (load_file(tmp_path / run / f"{name}.safetensors") for run in ("whole", "halves"))
        assert whole.keys() == halves.keys()
        assert all((whole[key] == halves[key]).all() for key in whole)
