"""A data set is distinguished from a copy: by its statistics, and a JPEG copy by the grid of its coefficients."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sparsecore.data.images import Images, Split
from sparsecore.errors import InputError
from sparsecore.study import images as study_images
from sparsecore.study.folder import StudyFolder
from sparsecore.study.images import ChannelStatistics, StudyImages, identify_images, jpeg_quality


def pictures(count=60, seed=1):
    """Coarse noise made larger, with fine noise on it: about as rough as photographs."""
    draws = np.random.default_rng(seed)
    coarse = draws.normal(128, 45, (count, 8, 8, 3)).repeat(4, axis=1).repeat(4, axis=2)
    return np.clip(coarse + draws.normal(0, 6, coarse.shape), 0, 255).astype(np.uint8)


def recoded(images, quality):
    def through_jpeg(image):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))

    return np.stack([through_jpeg(image) for image in images])


def archive(folder, images):
    labels = np.arange(len(images)) % 3
    np.savez(folder / "images.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    return {"name": "npz", "dir": str(folder), "file": "images.npz", "limit": 10, "crop": 0, "flip": False}


def statistics(images):
    return ChannelStatistics(len(images), tuple(images.mean(axis=(0, 1, 2))), tuple(images.std(axis=(0, 1, 2))))


@pytest.mark.parametrize("quality", [50, 75, 90])
def test_a_jpeg_copy_is_recognised_with_its_quality_and_the_original_is_not(quality):
    assert jpeg_quality(recoded(pictures(), quality)) == quality
    assert jpeg_quality(pictures()) is None


def test_block_artefacts_off_the_jpeg_grid_are_not_taken_for_jpeg():
    assert jpeg_quality(np.roll(recoded(pictures(), 75), 3, axis=(1, 2))) is None


@pytest.mark.parametrize("shape", [(50, 28, 28, 1), (50, 30, 30, 3), (50, 32, 32, 1)])
def test_grey_images_and_odd_sizes_are_not_tested_for_jpeg(shape):
    assert jpeg_quality(np.full(shape, 7, np.uint8)) is None


@given(seed=st.integers(0, 100), where=st.tuples(st.integers(0, 19), st.integers(0, 31), st.integers(0, 31)))
def test_published_images_are_recognised_in_any_order_but_not_with_a_changed_pixel(seed, where):
    original = pictures(20)
    labels = np.zeros(20, np.int64)
    known = statistics(original)
    shuffled = np.random.default_rng(seed).permutation(original)
    changed = original.copy()
    changed[where] = 255 - changed[where]
    same, other = (Images(Split(of, labels), Split(of, labels), 1) for of in (shuffled, changed))
    assert known.match(same)
    assert not known.match(other)


def test_images_are_described_as_original_jpeg_copy_or_other(tmp_path, monkeypatch):
    original = pictures()
    monkeypatch.setattr(study_images, "PUBLISHED", {"npz": statistics(original)})
    copies = {"same": original, "jpeg": recoded(original, 75), "else": 255 - original}
    titles = {}
    for name, copy in copies.items():
        (tmp_path / name).mkdir()
        titles[name] = identify_images(StudyFolder(tmp_path / name), archive(tmp_path / name, copy))
    assert titles == {
        "same": StudyImages("npz (images.npz)", published=True),
        "jpeg": StudyImages("npz (images.npz) (JPEG copy)"),
        "else": StudyImages("npz (images.npz) (not the published images)"),
    }


def test_the_description_of_images_is_remembered_when_they_are_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(study_images, "PUBLISHED", {"npz": statistics(pictures())})
    folder, data = StudyFolder(tmp_path), archive(tmp_path, recoded(pictures(), 75))
    (tmp_path / "images.npz").rename(tmp_path / "away.npz")
    assert identify_images(folder, data).title == "npz (images.npz) (images not found)"
    (tmp_path / "away.npz").rename(tmp_path / "images.npz")
    assert identify_images(folder, data, title="my copy") == StudyImages("my copy")
    (tmp_path / "images.npz").unlink()
    assert identify_images(folder, data) == StudyImages("my copy")
    folder.images.write_text(json.dumps({"colour": "red"}))
    with pytest.raises(InputError, match="is damaged"):
        identify_images(folder, data)


def test_a_custom_data_set_with_a_published_name_is_not_called_published(tmp_path):
    assert identify_images(StudyFolder(tmp_path), {"name": "mine.py:cifar10"}) == StudyImages("cifar10")
