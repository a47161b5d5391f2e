"""The examples of docs/jax.md run as printed."""

import warnings

import pytest
from pages import code

pytest.importorskip("jax")
pytest.importorskip("optax")
NEEDED = ("flax", "equinox", "orbax.checkpoint")


@pytest.mark.slow
def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    for package in NEEDED:
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    space = {}
    for block in code("docs/jax.md"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of flax and orbax
            exec(block, space)
    printed = capsys.readouterr().out
    assert "step 250, 2 updates, sparsity 0.9" in printed
    assert "output layer, by its name: params/head/kernel" in printed
    assert "block/attention/query/kernel" in printed
    assert space["training"].updates == 1
