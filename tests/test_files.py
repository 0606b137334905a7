"""Files that cannot be read, and how that is told."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image
from torch._utils import ExceptionWrapper

from segfocal.data.files import DataError, fault_report, open_array, open_header


@pytest.fixture
def mask():
    return np.array([[0, 1, 2], [2, 255, 0]], np.uint8)


def test_a_worker_error_keeps_its_own_text():
    for error in (DataError("a.png: is empty.\n  b.png: too"), fault_report(["a", "b"], "root")):
        with pytest.raises(DataError) as raised:
            _wrapped(error).reraise()
        assert str(raised.value) == str(error)
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


def _wrapped(error):
    try:
        try:
            raise OSError("cause")
        except OSError as cause:
            raise error from cause
    except DataError:
        return ExceptionWrapper(where="in DataLoader worker process 0")


def test_a_report_counts_what_it_does_not_print_and_lists_a_fault_once():
    text = str(fault_report([f"{i}.png: bad" for i in range(25)] + ["3.png: bad"], "root"))
    assert text.startswith("25 faults in root:\n  0.png: bad\n")
    assert text.endswith("and 5 more")
    assert str(fault_report(["a: bad"] * 2, "root")) == "1 fault in root:\n  a: bad"


def test_header_of_bytes_and_path_agree(tmp_path, mask):
    Image.fromarray(mask).save(tmp_path / "m.png")
    with open_header(tmp_path / "m.png", "m") as on_disk:
        assert on_disk.size == open_header(io.BytesIO((tmp_path / "m.png").read_bytes()), "m").size == (3, 2)


def test_broken_headers_of_arrays_are_refused(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((4, 5)))
    whole = path.read_bytes()
    for old, new in ((b"(4, 5)", b"(4, 5!"), (b"(4, 5)", b"(True,"), (b"'descr'", b"'descr("), (b"{", b"[")):
        path.write_bytes(whole.replace(old, new, 1))
        with pytest.raises(DataError, match=r"^a.npy: "):
            open_array(path, "a.npy")
