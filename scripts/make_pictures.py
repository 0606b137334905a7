"""Draw the README's picture: image, truth, cross-entropy and focal + Dice on test images of the embedded data set.

    python scripts/make_pictures.py

Trains both losses on configs/quickstart.yaml (about two minutes on 2 CPU cores) and writes scripts/results/shapes.png.
"""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segfocal import ShapesDataModule
from segfocal.cli import main as run_segfocal

ROOT = Path(__file__).parent.parent
TITLES = ("image", "truth", "cross-entropy", "focal + Dice")
LOSSES = {"ce": ["--model.loss=segfocal.FocalLoss", "--model.loss.gamma=0"], "pair": []}
ROWS = (1, 6, 11)
SCALE, GAP, HEAD = 2, 8, 26


def predicted(runs: str, name: str, loss: list[str]) -> list[Image.Image]:
    """The predicted masks of the test images, in colour."""
    shared = ["--config", str(ROOT / "configs/quickstart.yaml"), "--runs", runs, "--name", name, *loss]
    for words in (["fit", *shared], ["predict", *shared, "--ckpt_path", "best"]):
        if code := run_segfocal(words):
            raise SystemExit(code)
    return [Image.open(path).convert("RGB") for path in sorted((Path(runs) / name / "latest/masks").rglob("*.png"))]


def truth(data: ShapesDataModule) -> list[tuple[Image.Image, Image.Image]]:
    """Images and masks of the test split; ignored pixels are white."""
    data.setup("test")
    colours = np.full((256, 3), 255, np.uint8)
    colours[: data.num_classes] = data.palette
    items = [data.datasets["test"][index] for index in range(len(data.datasets["test"]))]
    return [
        (Image.fromarray(item["image"].permute(1, 2, 0).numpy()), Image.fromarray(colours[item["mask"].numpy()]))
        for item in items
    ]


def main() -> None:
    """Train, predict, draw."""
    with tempfile.TemporaryDirectory() as runs:
        columns = [predicted(runs, name, loss) for name, loss in LOSSES.items()]
    pairs = truth(ShapesDataModule())
    width, height = (SCALE * side for side in pairs[0][0].size)
    sheet = Image.new("RGB", (4 * width + 5 * GAP, HEAD + len(ROWS) * (height + GAP)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for column, title in enumerate(TITLES):
        left = GAP + column * (width + GAP)
        draw.text((left + width / 2, HEAD / 2), title, fill="black", font=font, anchor="mm")
        for row, index in enumerate(ROWS):
            picture = pairs[index][column] if column < 2 else columns[column - 2][index]
            sheet.paste(picture.resize((width, height), Image.Resampling.NEAREST), (left, HEAD + row * (height + GAP)))
    sheet.save(ROOT / "scripts/results/shapes.png", optimize=True)
    print(ROOT / "scripts/results/shapes.png")


if __name__ == "__main__":
    main()
