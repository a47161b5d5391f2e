"""Text in experiments: each position of a sequence has a label, and loss, accuracy and gradients are those of all."""

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from command_line import said, sparsecore, train

from sparsecore.data.batches import Augmentation, batches
from sparsecore.data.help_topics import HelpTopics, help_topics_text
from sparsecore.data.tokens import tokens_of
from sparsecore.engine.randomness import Randomness
from sparsecore.errors import InputError
from sparsecore.experiment.assembly import assemble
from sparsecore.experiment.experiment import Experiment
from sparsecore.run.setup import set_up
from sparsecore_torch.experiment.module_model import check_logits

pytestmark = pytest.mark.usefixtures("quick_runs")

GPT = ("--backend", "torch", "--model", "sparsecore_models.gpt:CharacterGPT", "--data", "help-topics")
SMALL = ("--set", "model.layers=1", "--set", "model.features=32", "--set", "model.characters=16")
WRONG = """
from torch import nn

class Wrong(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layer = nn.Linear(16, 2 * num_classes)

    def forward(self, codes):
        return self.layer(codes.flatten(1)).unflatten(1, (2, -1))
"""


def test_sequences_follow_one_another_and_every_label_is_the_next_character():
    data = tokens_of("abcabdabcabdabcabdab", 3, test_share=0.4)
    codes = {letter: "abcd".index(letter) for letter in "abcd"}
    assert data.classes == 4
    assert data.train.images.shape == (3, 1, 3, 1)
    assert data.train.images[:, 0, :, 0].tolist() == [[codes[one] for one in part] for part in ("abc", "abd", "abc")]
    assert data.train.labels.tolist() == [[codes[one] for one in part] for part in ("bca", "bda", "bca")]
    assert data.test.labels.tolist() == [[codes[one] for one in part] for part in ("bca", "bda")]
    with pytest.raises(InputError, match="a part of the text has 2 characters"):
        tokens_of("ab" * 10, 3)
    with pytest.raises(InputError, match="at most 256 different characters; given 300"):
        tokens_of("".join(map(chr, range(300))), 3)


def test_the_help_topics_are_those_of_python():
    from pydoc_data.topics import topics

    assert all(text in help_topics_text() for text in topics.values())
    data = HelpTopics(length=32).load(None)
    assert data.train.images.shape[1:] == (1, 32, 1)
    assert len(data.test) == pytest.approx(len(data.train) / 9, rel=0.01)


def test_loss_accuracy_and_gradients_are_those_of_every_character() -> None:
    settings = [*SMALL[1::2], "data.length=16", "training.batch_size=4", "sparsity=0.5", "data.limit=8"]
    options = {"backend.name": "torch", "model.name": GPT[3], "data.name": "help-topics"}
    setup = set_up(Experiment.of(assemble(None, options, ("static",), settings)))
    learner = setup.learner()
    module = learner._module

    def by_hand(codes, labels):
        logits = module(torch.from_numpy(codes[:, 0, :, 0].astype(np.int64))).double()
        own = logits.log_softmax(-1).gather(-1, torch.from_numpy(labels)[..., None])[..., 0]
        return -own, (logits.argmax(-1).numpy() == labels).sum()

    test = setup.images.test.at(np.arange(5))
    totals = learner.evaluate(test)
    losses, correct = by_hand(test.images, test.labels)
    assert (totals.examples, totals.correct) == (5 * 16, correct)
    assert totals.loss == pytest.approx(losses.sum().item(), rel=1e-5)
    [batch, *_] = batches(Randomness(0), 0, 8, 4, Augmentation())
    gradients = learner.backward(batch, dense=True)
    found = {name: gradients(name).clone() for name in setup.engine.layout.names}
    module.zero_grad()
    losses, _ = by_hand(setup.images.train.images[batch.rows], setup.images.train.labels[batch.rows])
    losses.mean().backward()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, module.get_parameter(name).grad.flatten(), rtol=1e-4, atol=1e-6)


def test_a_gpt_trains_and_its_operations_are_those_of_its_linear_layers(tmp_path: Path) -> None:
    short = ("--set", "data.length=16", "--set", "data.limit=64", "--batch-size", "16", "--epochs", "2")
    rate = ("--set", "training.optimizer=adamw", "--set", "training.learning_rate=1e-2", "--sparsity", "0.5")
    dense = ("--set", 'model.exclude=["embedding.weight", "positions", "head.weight"]', "--strategy", "static")
    out = tmp_path / "gpt"
    result = train(*GPT, *SMALL, *short, *rate, *dense, "--out", out)
    characters = HelpTopics().load(None).classes
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["train_loss"] == pytest.approx(np.log(characters), abs=0.5)
    assert lines[1]["train_loss"] < lines[0]["train_loss"] - 0.1
    blocks, head = 32 * (3 * 32 + 32 + 4 * 32 + 4 * 32), 32 * characters
    assert result["flops"]["inference_dense"] == 2 * 16 * (blocks + head)
    assert result["flops"]["inference"] == 2 * 16 * (blocks // 2 + head)
    assert result["sparse_parameters"] == blocks // 2


def test_models_of_other_backends_crops_and_wrong_logits_are_refused(tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    refused = said(sparsecore("train", "--model", "lenet-12-8", "--data", "help-topics", *out))
    assert "the data set 'help-topics' has 64 labels an example, which a module of PyTorch can be trained on" in refused
    assert "neither cropped nor flipped" in said(sparsecore("train", *GPT, "--set", "data.crop=1", *out))
    (tmp_path / "wrong.py").write_text(WRONG)
    model = (
        "--model",
        f"{tmp_path / 'wrong.py'}:Wrong",
        "--set",
        "data.length=16",
        "--set",
        "model.include=layer.weight",
    )
    refused = sparsecore("train", "--backend", "torch", "--data", "help-topics", *model, *out, "--set", "data.limit=8")
    assert "expected logits of (8, 16, " in refused.stderr
    assert refused.returncode == 2


def test_a_module_of_images_has_one_label_an_image() -> None:
    check_logits(torch.zeros(4, 10), 4, 10, "mine", ())
    with pytest.raises(InputError, match=r"returns \(4, 7, 10\) for a batch of 4; expected logits of \(4, 10\)"):
        check_logits(torch.zeros(4, 7, 10), 4, 10, "mine", ())
