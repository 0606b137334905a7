"""`segfocal report`: report.html of a scored run, made again from the files of its folder. Without torch."""

import argparse
from pathlib import Path

from segfocal.commands.score import Parser
from segfocal.data.files import DataError
from segfocal.runs import fits_behind


def parser() -> argparse.ArgumentParser:
    """The options."""
    words = Parser("segfocal report", description=__doc__, allow_abbrev=False)
    words.add_argument("run", type=Path, help="a run of segfocal fit, validate, test or score, such as runs/a/001-test")
    return words


def report(options: list[str]) -> None:
    """Read, draw and write."""
    run: Path = parser().parse_args(options).run
    if not run.is_dir():
        raise DataError(f"{run}: must be the folder of a run, such as runs/a/001-test. Correct the path.")
    from segfocal.evaluation.page import write_report  # with matplotlib, which a mistake need not wait for

    try:
        file = write_report(run, fits_behind(run))
    except ValueError as error:
        raise DataError(str(error)) from error
    print(f"report: {file}")
