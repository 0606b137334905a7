"""Messages of the parser and of YAML's reader, cut down to a line."""

import pytest
from pytorch_lightning.cli import LightningArgumentParser

from segfocal.mistakes import ConfigError, check_yaml, explain


@pytest.fixture(scope="module")
def parser():
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_argument("--model.lr", type=float)
    parser.add_argument("--name", type=str)
    return parser


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("unrecognized arguments: --nonsense 3", "no option 'nonsense'. There are:"),
        ("Group 'model' does not accept option 'lrr'", "no option 'model.lrr'. Did you mean 'model.lr'?"),
        ("Parser key \"model.lr\":\n  Expected a <class 'float'>. Got value: x", "model.lr: expected float, got 'x'."),
        (
            "Parser key \"model.loss\":\n  Problem with given class_path 'segfocal.FocalLoss':\n"
            "    Option 'gama' is not accepted",
            "no option 'model.loss.gama' in segfocal.FocalLoss. Did you mean 'model.loss.gamma'?",
        ),
        (
            "Parser key \"model.loss.alpha\":\n  Problem with given class_path 'torch.Tensor':\n"
            "    Option 'wire' is not accepted",
            "no option 'model.loss.alpha.wire' in torch.Tensor.",
        ),
        ("something nobody foresaw", "something nobody foresaw"),
    ],
)
def test_a_message_of_the_parser_is_cut_down(parser, message, told):
    assert explain(message, parser).startswith(told)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: 1\na: 2\n", "line 2: 'a' stands in line 1 too"),
        (b"x: {b: [{c: 1, c: 2}]}\n", "line 1: 'c' stands in line 1 too"),
        (b"a: [1\n", "is not YAML"),
        (b"- a\n", "no `key: value` lines"),
        (b"# nothing\n", "no `key: value` lines"),
        (b"[" * 3000, "is not YAML"),
        (b"a: &a\n  b: *a\n", "an alias stands inside what it names"),
        (b"a: \xff\xfe\n", "cannot be read"),
    ],
)
def test_a_broken_file_is_named(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=f"bad.yaml.*{message}"):
        check_yaml(str(path))


def test_a_good_file_is_let_through(tmp_path):
    path = tmp_path / "good.yaml"
    for text in ("a: {b: 1}\nc: {b: 2}\n", "\ufeffa: 1\n", "a: &a {b: 1}\nc: *a\nd: *a\n"):
        path.write_text(text)
        check_yaml(str(path))
