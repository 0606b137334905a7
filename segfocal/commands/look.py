"""`segfocal check`: what looks at the data alone."""

import argparse
import json
import time
from pathlib import Path

from segfocal.configuration import NET_AND_LOSS, Configuration, config_files
from segfocal.mistakes import ConfigError


def check(options: list[str]) -> int:
    """Inspect the data; 3 if something is wrong with it."""
    words = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    words.add_argument("--json")
    known, options = words.parse_known_args(options)
    if known.json is not None and (Path(known.json).is_dir() or not Path(known.json).absolute().parent.is_dir()):
        raise ConfigError(f"Expected `--json` to be a file in a folder that is there, got {known.json!r}. Correct it.")
    data = data_configuration("check", options).datamodule
    if not hasattr(data, "inspect"):
        raise ConfigError(f"check looks at images and masks in files, which {type(data).__name__} has not.")
    start = time.monotonic()
    found = data.inspect()
    print(found.text())
    seconds, images = time.monotonic() - start, sum(found.images.values())
    print(f"{found.count or 'no'} fault{'' if found.count == 1 else 's'} in {images} images of {found.where}", end="")
    print(f"; {seconds:.1f} s, {images / seconds:.0f} images/s")
    if known.json is not None:
        text = json.dumps(vars(found), indent=1, ensure_ascii=False) + "\n"
        # A name that is no Unicode is escaped, as JSON has it.
        Path(known.json).write_text(text, encoding="utf-8", errors="backslashreplace")
    return 3 if found.count else 0


def data_configuration(command: str, options: list[str]) -> Configuration:
    """The configuration with its data built; the options need not say anything of the net and the loss."""
    if not config_files(options):
        kind = [] if "--data" in options else ["--data=segfocal.SegmentationDataModule"]
        options = [*NET_AND_LOSS, *kind, *options]
    return Configuration(command, options, build="data")
