"""From YAML and command line to data, task and trainer: LightningCLI with one schema for every command."""

import inspect
import re
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, LightningDataModule, Trainer
from pytorch_lightning.callbacks import LearningRateMonitor, ProgressBar
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins.io import CheckpointIO

from segfocal.checkpoints import SealedCheckpointIO
from segfocal.data import DataError, SegmentationDataModule, ShapesDataModule
from segfocal.data.loading import LabelledImages
from segfocal.data.statistics import AUTO, cached_statistics
from segfocal.mistakes import ConfigError, check_yaml, explain, import_path
from segfocal.processes import Together
from segfocal.progress import Curves, Progress
from segfocal.runs import home_of
from segfocal.task import SegmentationTask

# So that YAML may name them without their modules.
KNOWN = (SegmentationDataModule, ShapesDataModule)
NET_AND_LOSS = ["--model.net=segfocal.smp_net", "--model.loss=segfocal.FocalDiceLoss"]
TEMPLATE = ["--data=segfocal.SegmentationDataModule", "--data.root=DATA_FOLDER", *NET_AND_LOSS]


# Lightning's annotation of these is Optional[Union[int, float]], or the reverse if another library has written that
# first: typing takes the two for one. Then 1 would be read as 1.0, which means all batches.
LIMITS = {f"limit_{what}_batches": what for what in ("train", "val", "test", "predict")}


class Configuration(LightningCLI):
    """Parses options, and builds what they describe.

    Args:
        command: fit, validate, test, predict, check or preview; all have the same options.
        options: The words after the command.
        build: What to build of `config`: all, or the data alone, or nothing.

    Attributes:
        config: What was parsed.
        model: The task.
        net: The class_path and init_args of the task's net, with what the data say about it.
        datamodule: The data.

    Raises:
        ConfigError: Whatever is wrong with the options.
        ValueError: An option's value that its class refuses.
    """

    datamodule: LightningDataModule
    model: SegmentationTask
    net: Namespace

    def __init__(
        self, command: str, options: Sequence[str], *, build: Literal["all", "data", "nothing"] = "all"
    ) -> None:
        self._build, self._command = build, command
        try:
            super().__init__(
                SegmentationTask,
                LightningDataModule,
                save_config_callback=None,
                seed_everything_default=0,
                trainer_defaults={"max_epochs": 50, "log_every_n_steps": 10, "enable_autolog_hparams": False},
                parser_kwargs={"prog": f"segfocal {command}", "exit_on_error": False, "allow_abbrev": False},
                subclass_mode_data=True,
                args=list(options),
                run=False,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
            )
        # Whatever the parser, a constructor or a download of weights raises comes of what was configured.
        except (ArgumentError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, OSError) as error:
            cause: BaseException | None = error
            while cause is not None:  # the parser wraps what the data module raises
                if isinstance(cause, DataError):
                    raise cause from None
                cause = cause.__cause__ or cause.__context__
            raise ConfigError(explain(str(error), self.parser)) from error

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Data, task and trainer; what the task takes from the data is no option."""
        parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True, required=True)
        parser.add_class_arguments(
            SegmentationTask, "model", skip={"class_names", "ignore_index"}, fail_untyped=False, sub_configs=True
        )
        parser.add_class_arguments(
            Trainer, "trainer", skip=set(LIMITS), fail_untyped=False, instantiate=False, sub_configs=True
        )
        for name, what in LIMITS.items():
            text = f"How many batches of {what} to take: a number such as 1, or a share such as 0.5; null: all."
            parser.add_argument(f"--trainer.{name}", type=int | float | None, default=None, help=text)
        parser.set_defaults({f"trainer.{key}": value for key, value in self.trainer_defaults.items()})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The options of a run: its name, its folder, its checkpoint."""
        parser.add_argument("--name", type=str | None, help="Results go to RUNS/NAME/; default: the YAML file's name.")
        parser.add_argument("--runs", type=str, default="runs", help="Folder of all runs.")
        parser.add_argument("--ckpt_path", type=str | None, help="best, last, a file, or a run such as runs/NAME/000.")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and name the run after its YAML file."""
        assert isinstance(args, list)
        files = config_files(args)
        for path in files:
            check_yaml(path)
        self.config = parser.parse_args(args)
        _check_trainer(self.config.trainer)
        self.config.runs = str(Path(self.config.runs).expanduser())
        loss = self.config.model.loss.get("init_args", Namespace())
        written = parser.parse_args(args, defaults=False)
        if "sync_dist" in loss and "model.loss.init_args.sync_dist" not in written:
            loss.sync_dist = True  # changes nothing in one process, and in several no other loss is that of the batch
        if self.config.name is None:
            self.config.name = Path(files[-1]).stem if files else "default"

    def instantiate_classes(self) -> None:
        """Build the data, and the task for it."""
        if self._build == "nothing":
            return
        only_data = LightningArgumentParser(exit_on_error=False)
        only_data.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True, required=True)
        self.datamodule = only_data.instantiate(Namespace(data=self.config.data)).data
        if self._build == "all":
            self.build_task()

    def build_task(self, data: object | None = None) -> None:
        """Build net, loss and task as `model`.

        Args:
            data: What says which classes, ignored pixels and bands there are; None: the data module.
        """
        data = self.datamodule if data is None else data
        names, ignore_index = (getattr(data, name, None) for name in ("class_names", "ignore_index"))
        if names is None or ignore_index is None:
            kind = type(data).__name__
            raise ConfigError(f"{kind} lacks class_names or ignore_index. Give your data module both as attributes.")
        if getattr(data, "multilabel", False) and self.config.model.activation != "sigmoid":
            raise ConfigError("The masks are one per class, and classes may overlap. Set model.activation: sigmoid.")
        self._settle_alpha(list(names))
        count, bands = len(names), getattr(data, "in_channels", None)
        if bands is not None:
            _settle_normalisation(self.config.model, bands)
        model = self.config.model.clone()
        _share(model, "net", {"num_classes": count, "classes": count, "num_labels": count})
        if bands is not None:
            _share(model, "net", {"in_channels": bands, "in_chans": bands})
        self.net = model.net.clone()
        _share(model, "loss", {"ignore_index": ignore_index, "activation": model.activation})
        only_model = LightningArgumentParser(exit_on_error=False)
        only_model.add_class_arguments(
            SegmentationTask, "model", skip={"class_names", "ignore_index"}, fail_untyped=False, sub_configs=True
        )

        def build(kind: type[SegmentationTask], **arguments: Any) -> SegmentationTask:  # noqa: ANN401
            return kind(class_names=names, ignore_index=ignore_index, **arguments)

        built = only_model.instantiate(Namespace(model=model), instantiators=[(build, SegmentationTask, True)])
        self.model = built.model

    def _settle_alpha(self, class_names: list[str]) -> None:
        """Put numbers in the place of an automatic alpha. Only a fit needs them; it keeps them in its config.yaml."""
        loss = self.config.model.loss
        wanted = loss.get("init_args", Namespace()).get("alpha")
        if wanted != "auto" and not isinstance(wanted, dict | Namespace):
            return
        if self._command != "fit":
            loss.init_args.alpha = None
            return
        if not isinstance(self.datamodule, LabelledImages):
            kind = type(self.datamodule).__name__
            raise ConfigError(f"model.loss.alpha: only data modules of segfocal can count classes, not {kind}.")
        asked = wanted.as_dict() if isinstance(wanted, Namespace) else wanted
        how = AUTO if asked == "auto" else {"method": "inverse", "power": 1.0, **asked}
        if unknown := ", ".join(sorted(how.keys() - AUTO.keys())):
            raise ConfigError(f"model.loss.alpha has the keys method and power, not {unknown}. Rename it.")
        self.datamodule.setup("fit")
        folder = home_of(Path(self.config.runs), self.config.name)
        statistics = cached_statistics(self.datamodule.datasets["train"], class_names, folder)
        try:
            alpha = statistics.alpha(how["method"], how["power"], self.config.model.activation)
        except ValueError as error:
            raise ConfigError(f"model.loss.alpha: {error}") from error
        loss.init_args.alpha = alpha
        listed = ", ".join(f"{name} {value:g}" for name, value in zip(class_names, alpha, strict=True))
        print(f"alpha, {how['method']} to the power of {how['power']:g}: {listed}")

    def build_trainer(self, run: Path, callbacks: Sequence[Callback], *, logged: bool = True) -> Trainer:
        """The configured trainer, with metrics.csv and TensorBoard's file in `run` unless another logger is configured.

        The configured callbacks come first; another progress bar among them replaces the usual one.

        Raises:
            ConfigError: An option that the trainer refuses, such as a GPU where there is none.
        """
        parser = LightningArgumentParser(exit_on_error=False)
        parser.add_class_arguments(Trainer, "trainer", skip=set(LIMITS), fail_untyped=False, instantiate=False)
        others = self.config.trainer.clone()
        limits = {name: others.pop(name) for name in LIMITS}
        try:
            arguments = parser.instantiate(Namespace(trainer=others)).trainer.as_dict() | limits
            return Trainer(**self._trainer_arguments(arguments, run, callbacks, logged=logged))
        except (ValueError, TypeError, ImportError, RuntimeError, MisconfigurationException) as error:
            raise ConfigError(f"trainer: {explain(str(error), self.parser)}") from error

    @staticmethod
    def _trainer_arguments(
        arguments: dict[str, Any], run: Path, callbacks: Sequence[Callback], *, logged: bool
    ) -> dict[str, Any]:
        configured = arguments.pop("callbacks") or []
        configured = configured if isinstance(configured, list) else [configured]
        added = list(callbacks)
        if not logged:
            arguments["logger"] = False
        elif arguments["logger"] in (None, True):
            arguments["logger"] = [CSVLogger(run, name="", version=""), Curves(run)]
        if arguments["logger"] is not False:
            added.append(LearningRateMonitor("step"))
        if arguments["enable_progress_bar"] is not False and not any(isinstance(c, ProgressBar) for c in configured):
            added.append(Progress())
        arguments["callbacks"] = [*configured, *added, Together()]
        plugins = arguments["plugins"] or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            arguments["plugins"] = [*plugins, SealedCheckpointIO()]
        arguments["default_root_dir"] = arguments["default_root_dir"] or run
        arguments["enable_model_summary"] = bool(arguments["enable_model_summary"])
        return arguments

    def yaml(self, *, comments: bool = False) -> str:
        """The whole configuration, to run the same again; the checkpoint it started from is left out."""
        config = self.config.clone()
        config.pop("config", None)
        config.ckpt_path = None
        text: str = self.parser.dump(config, skip_unset=False, with_comments=comments)
        return text


def template(options: Sequence[str]) -> str:
    """A complete configuration as YAML, with a comment above each option; `options` are applied to it.

    Raises:
        ConfigError: Whatever is wrong with the options.
    """
    configuration = Configuration("fit", options if config_files(options) else [*TEMPLATE, *options], build="nothing")
    text = configuration.yaml(comments=True)
    # The comments end in what the parser found out about types, with hundreds of known sub-classes: too much to read.
    return re.sub(r" ?\((?:required, )?type: .*\)$", "", text, flags=re.MULTILINE)


def config_files(options: Sequence[str]) -> list[str]:
    """The files given by --config FILE, --config=FILE or -c FILE."""
    pairs = zip(options, [*options[1:], ""], strict=False)
    named = (after if "=" not in word else word.partition("=")[2] for word, after in pairs if _CONFIG.match(word))
    return [name for name in named if name]


_CONFIG = re.compile(r"(-c|--config)$|--config=")


def _check_trainer(trainer: Any) -> None:  # noqa: ANN401
    """Refuse what Lightning takes, and then divides by or trains nonsense with."""
    if not isinstance(trainer, Namespace):
        raise ConfigError("trainer is empty. Give it options, or leave the key out.")
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch", "val_check_interval"):
        value = trainer[name]
        if isinstance(value, int | float) and value <= 0:
            raise ConfigError(f"Expected `trainer.{name}` above 0, got {value}. Leave it out for its usual value.")
    if (trainer.gradient_clip_val or 0) < 0:  # which would turn the gradients round
        raise ConfigError(f"Expected `trainer.gradient_clip_val` >= 0, got {trainer.gradient_clip_val}. Try 1.0.")


def _share(model: Namespace, part: str, values: dict[str, Any]) -> None:
    """Give `net` or `loss` what is written once elsewhere; refuse a second, different value."""
    component = model[part]
    if "init_args" not in component:
        component["init_args"] = Namespace()
    arguments = component["init_args"]
    parameters = inspect.signature(import_path(component.class_path)).parameters
    for name, value in values.items():
        if name not in parameters:
            continue
        written = arguments.get(name, parameters[name].default)
        if written not in (None, value, parameters[name].default):
            raise ConfigError(
                f"model.{part}.init_args.{name} is {written!r}, but the data and the task say {value!r}. "
                "It is written once: leave it out here."
            )
        arguments[name] = value


def _settle_normalisation(model: Namespace, bands: int) -> None:
    """Mean and standard deviation for another number of bands than ImageNet's three, unless they were given."""
    default = inspect.signature(SegmentationTask).parameters
    if bands == 3 or any(tuple(model[name]) != default[name].default for name in ("mean", "std")):
        return
    # Grey: ImageNet's, averaged. Others: the middle of the range; `segfocal stats` prints those of the data.
    grey = {name: [round(sum(default[name].default) / 3, 3)] for name in ("mean", "std")}
    chosen = grey if bands == 1 else {"mean": [0.5] * bands, "std": [0.25] * bands}
    model.mean, model.std = chosen["mean"], chosen["std"]
