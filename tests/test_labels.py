"""Labels as data: values, merging, colours, what is not listed."""

import numpy as np
import pytest

from segfocal.data.classes import class_values, ignored_values
from segfocal.data.labels import Labels, present_labels


@pytest.fixture
def mask():
    return np.array([[0, 1, 2], [2, 255, 0]], np.uint8)


def test_illegal_labels_are_named_with_a_remedy(mask):
    assert Labels(3, 255).illegal(mask) == []
    assert Labels(2, 255).illegal(mask) == [2]
    assert Labels(3, 254).illegal(mask) == [255]
    assert "got 2. " in Labels(2, 255).fault(mask, "a.png")
    assert Labels(1, 11).illegal(np.array([0, 1, 11], np.uint8)) == []
    assert "`classes: {NAME: 255}`" in Labels(1, 11).fault(np.array([[0, 255]], np.uint8), "a.png")


def test_labels_above_255_need_a_wider_type():
    assert Labels(256, 65535).dtype == np.uint16
    assert Labels(255, 255).dtype == np.uint8
    assert Labels(300, 65535).illegal(np.array([299, 300, 65535], np.uint16)) == [300]


def test_present_labels_of_any_shape_and_type(mask):
    assert present_labels(mask) == present_labels(mask.astype(np.uint16)) == present_labels(mask.T) == [0, 1, 2, 255]


def test_values_are_mapped_and_merged(mask):
    labels = Labels(2, 255, values=((2,), (0, 1)))
    assert labels.illegal(mask) == []
    assert labels.legal(mask).tolist() == [[1, 1, 0], [0, 255, 1]]
    assert labels.legal(mask.astype(np.uint16)).tolist() == labels.legal(mask).tolist()
    assert labels.legal(mask).dtype == np.uint8


def test_what_is_not_listed_is_an_error_or_ignored_or_the_background():
    raw = np.array([[7, 8, 255]], np.uint8)
    assert Labels(1, 255, ((7,),)).illegal(raw) == [8]
    assert "labels must be listed in `classes`, or 255 (ignored), got 8." in Labels(1, 255, ((7,),)).fault(raw, "a.png")
    for unlisted, wanted in {"ignore": [1, 255, 255], "background": [1, 0, 255], (8,): [1, 255, 255]}.items():
        labels = Labels(1, 255, ((7,),), unlisted=unlisted)
        assert labels.illegal(raw) == []
        assert labels.legal(raw).tolist() == [wanted]
    assert Labels(1, 255, ((7,),), unlisted=(9,)).illegal(raw) == [8]


def test_a_listed_value_wins_over_ignore_index():
    """Masks of 0 and 255 are said to be that, and nothing is ignored in silence."""
    labels = Labels(1, 255, ((255,),))
    assert labels.legal(np.array([[0, 255]], np.uint8)).tolist() == [[0, 1]]
    assert labels.illegal(np.array([[0, 3, 255]], np.uint8)) == [3]


def test_colours_are_values_too():
    names, values, colours = class_values({"road": [[128, 64, 128]], "car": [[0, 0, 142], [0, 0, 70]]})
    labels = Labels(len(names), 255, values, colours)
    raw = np.array([[128 << 16 | 64 << 8 | 128, 142, 70, 1]], np.int32)
    assert labels.illegal(raw) == [1]
    assert "got [0, 0, 1]" in labels.fault(raw, "a.png")
    assert labels.legal(raw[:, :3]).tolist() == [[0, 1, 1]]
    ignored = Labels(len(names), 255, values, colours, unlisted=ignored_values([[0, 0, 1]], colours))
    assert ignored.legal(raw).tolist() == [[0, 1, 1, 255]]


def test_many_colours_do_not_collide():
    rng = np.random.default_rng(0)
    colours = rng.choice(2**24, 300, replace=False)
    labels = Labels(300, 65535, tuple((int(colour),) for colour in colours), colours=True, unlisted="ignore")
    others = np.setdiff1d(rng.choice(2**24, 5000), colours)
    assert labels.legal(colours.astype(np.int32)).tolist() == list(range(300))
    assert (labels.legal(others.astype(np.int32)) == 65535).all()


def test_planes_of_dense_masks_have_values_of_their_own():
    labels = Labels(2, 255, ((255,), (1, 2)), form="per_class")
    assert labels.legal(np.array([[0, 255]], np.uint8), 0).tolist() == [[0, 1]]
    assert labels.legal(np.array([[0, 1, 2, 255]], np.uint8), 1).tolist() == [[0, 1, 1, 255]]
    assert labels.illegal(np.array([[1]], np.uint8), 0) == [1]
    assert Labels(2, 255, form="channels").illegal(np.array([[0, 1, 2, 255]], np.uint8), 1) == [2]


def test_classes_present_in_a_mask():
    assert Labels(3, 255).present(np.array([[0, 2, 255]], np.uint8)) == {0, 2}
    assert Labels(1, 255).present(np.array([[0, 1]], np.uint8)) == {0}
    assert Labels(1, 255).present(np.array([[0, 255]], np.uint8)) == set()
    assert Labels(2, 255, form="channels").present(np.array([[[0, 0]], [[255, 1]]], np.uint8)) == {1}


def test_a_class_cannot_be_unlisted():
    with pytest.raises(ValueError, match=r"Expected `unlisted` to name values that are no class's, got 0\."):
        Labels(2, 255, unlisted=(0,))
    Labels(2, 255, values=((1,), (2,)), unlisted=(0,))
    with pytest.raises(ValueError, match=r"no class's, got \[0, 0, 1\]"):
        Labels(2, 255, values=((1,), (2,)), colours=True, unlisted=(1,))
