"""From words to objects: what is written once is handed on, and mistakes are told in a line."""

import pytest
import yaml
from pytorch_lightning import LightningDataModule

import segfocal
from segfocal.configuration import Configuration, config_files, template
from segfocal.mistakes import ConfigError

SHAPES = ["--data=segfocal.ShapesDataModule", "--data.n_train=2", "--data.n_val=1", "--data.n_test=1"]
LOSS = ["--model.loss=segfocal.FocalDiceLoss"]
CONV = ["--model.net=torch.nn.Conv2d", "--model.net.in_channels=3", "--model.net.kernel_size=1"]


def test_the_class_count_is_handed_to_any_net_that_takes_one():
    for net in ("segfocal.smp_net", "segmentation_models_pytorch.Unet"):
        words = [f"--model.net={net}", "--model.net.encoder_name=resnet18", "--model.net.encoder_weights=null"]
        task = Configuration("fit", [*SHAPES, *LOSS, *words]).model
        assert task.net.segmentation_head[0].out_channels == 6
        assert task.class_names[0] == "background"


def test_a_torchvision_net_is_a_net():
    words = [
        "--model.net=torchvision.models.segmentation.lraspp_mobilenet_v3_large",
        "--model.net.weights_backbone=null",
    ]
    task = Configuration("fit", [*SHAPES, *LOSS, *words]).model
    assert task.net.classifier.low_classifier.out_channels == 6


def test_ignore_index_and_activation_reach_loss_and_task():
    words = [
        *SHAPES,
        *LOSS,
        *CONV,
        "--model.net.out_channels=6",
        "--data.ignore_index=77",
        "--model.activation=sigmoid",
    ]
    task = Configuration("fit", words).model
    assert task.loss.ignore_index == task.hparams["ignore_index"] == 77
    assert task.loss.activation == "sigmoid"


def test_a_loss_of_torch_gets_ignore_index_too():
    words = [*SHAPES, *CONV, "--model.net.out_channels=6", "--model.loss=torch.nn.CrossEntropyLoss"]
    assert Configuration("fit", words).model.loss.ignore_index == 255


def test_a_second_class_count_is_an_error():
    words = [*SHAPES, *LOSS, "--model.net=segfocal.smp_net", "--model.net.num_classes=4"]
    with pytest.raises(ConfigError, match="num_classes is 4, but the data and the task say 6"):
        Configuration("fit", words)


class Unnamed(LightningDataModule):
    """A data module without the names of its classes."""


def test_a_data_module_without_class_names_is_named():
    words = [f"--data={__name__}.Unnamed", *LOSS, *CONV, "--model.net.out_channels=6"]
    with pytest.raises(ConfigError, match="Unnamed lacks class_names"):
        Configuration("fit", words)


def test_another_class_does_not_inherit_the_options_of_the_first(tmp_path):
    first = {"model": {"loss": {"class_path": "segfocal.FocalDiceLoss", "init_args": {"gamma": 5.0, "smooth": 3.0}}}}
    (tmp_path / "first.yaml").write_text(yaml.safe_dump(first))
    words = ["--config", str(tmp_path / "first.yaml"), *SHAPES, *CONV, "--model.net.out_channels=6"]
    loss = Configuration("fit", [*words, "--model.loss=segfocal.DiceLoss"]).model.loss
    assert not hasattr(loss, "gamma")


def test_the_saved_configuration_builds_the_same_again(tmp_path):
    words = [*SHAPES, *LOSS, *CONV, "--model.net.out_channels=6", "--model.lr=0.5", "--ckpt_path=last"]
    (tmp_path / "saved.yaml").write_text(Configuration("fit", words).yaml())
    again = Configuration("fit", ["--config", str(tmp_path / "saved.yaml")])
    assert again.model.hparams["lr"] == 0.5
    assert again.config.ckpt_path is None  # a saved fit starts afresh
    assert again.config.name == "default"


def test_the_run_is_named_after_the_last_file(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("seed_everything: 1")
    words = [*SHAPES, *LOSS, *CONV, "--model.net.out_channels=6"]
    files = ["--config", str(tmp_path / "a.yaml"), f"--config={tmp_path / 'b.yaml'}"]
    assert config_files(files) == [str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")]
    assert Configuration("fit", [*files, *words]).config.name == "b"


def test_the_template_has_the_defaults_of_the_classes():
    config = yaml.safe_load(template([]))
    assert config["model"]["loss"]["init_args"]["gamma"] == segfocal.FocalDiceLoss().gamma
    assert config["model"]["lr"] == 1e-3


@pytest.mark.parametrize(("typed", "value"), [("1", 1), ("1.0", 1.0), ("0.5", 0.5), ("null", None)])
def test_one_batch_is_not_all_batches(typed, value, tmp_path):
    """Whatever other libraries have written as Optional[Union[float, int]] before Lightning was imported."""
    read = Configuration(
        "fit", [*SHAPES, *LOSS, "--model.net=segfocal.smp_net", f"--trainer.limit_val_batches={typed}"], build="nothing"
    )
    found = read.config.trainer.limit_val_batches
    assert (found, type(found)) == (value, type(value))
    used = read.build_trainer(tmp_path, [], logged=False).limit_val_batches
    assert (used, type(used)) == (value or 1.0, type(value or 1.0))  # nothing is everything
