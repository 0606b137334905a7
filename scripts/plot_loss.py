"""Draw the two pictures of the README's chapter on the loss.

    python scripts/plot_loss.py

scripts/results/gamma.png: the focal loss and its gradient over the probability of the true class, for several gamma.
scripts/results/who_pays.png: each class's share of the loss on the test images of the embedded data set, for a net
that cross-entropy has trained for a few epochs (about a minute on 2 CPU cores).
"""

from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn

import segfocal
from segfocal.functional import sigmoid_focal_loss

RESULTS = Path(__file__).parent / "results"
GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)
EPOCHS = 6
mpl.rcParams.update({"figure.dpi": 110, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})


def draw_gamma() -> Path:
    """Loss and gradient by the logit of the true class, over its probability."""
    p = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for gamma, colour in zip(GAMMAS, plt.cm.viridis(torch.linspace(0, 0.85, len(GAMMAS)).numpy()), strict=True):
        logits = p.logit().unsqueeze(1).requires_grad_()  # one channel that is always positive
        loss = sigmoid_focal_loss(logits, torch.ones(len(p), dtype=torch.long), gamma=gamma, reduction="none")
        (slope,) = torch.autograd.grad(loss.sum(), logits)
        name = "0 (cross-entropy)" if gamma == 0 else f"{gamma:g}"
        left.plot(p, loss.detach(), color=colour, label=name)
        right.plot(p, slope.abs(), color=colour)
    left.set(xlabel="probability of the true class", ylabel="loss of a pixel", ylim=(0, 4), xlim=(0, 1))
    right.set(xlabel="probability of the true class", ylabel="size of its gradient (by the logit)", xlim=(0, 1))
    right.set_ylim(bottom=0)
    left.legend(title="gamma", frameon=False)
    return save(figure, "gamma.png")


def trained_net(data: segfocal.ShapesDataModule) -> nn.Module:
    """A small U-Net after a few epochs of cross-entropy."""
    torch.manual_seed(0)
    net = segfocal.smp_net(
        architecture="Unet",
        encoder_name="tu-mobilenetv3_small_100",
        encoder_weights=None,
        num_classes=data.num_classes,
        options={"decoder_channels": [64, 48, 32, 24, 16]},
    )
    loss, optimizer = segfocal.FocalLoss(gamma=0.0), torch.optim.AdamW(net.parameters(), lr=3e-3)
    for epoch in range(EPOCHS):
        for batch in data.train_dataloader():
            value = loss(net(batch["image"] / 255), batch["mask"])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        print(f"epoch {epoch + 1} of {EPOCHS}  loss {value.item():.3f}", flush=True)
    return net.eval()


@torch.no_grad()
def shares(net: nn.Module, data: segfocal.ShapesDataModule) -> dict[str, Tensor]:
    """What share each class has of the pixels and of the losses (C,), on the test images."""
    batches = [(net(batch["image"] / 255), batch["mask"]) for batch in data.test_dataloader()]
    logits, target = (torch.cat(parts) for parts in zip(*batches, strict=True))
    parts = {f"gamma {gamma:g}": segfocal.FocalLoss(gamma=gamma).breakdown(logits, target) for gamma in (0.0, 2.0)}
    found = {"pixels": torch.bincount(target[target != 255].long(), minlength=data.num_classes).float()}
    found |= {f"focal, {name}": part["focal_per_class"] for name, part in parts.items()}
    found["Dice"] = segfocal.DiceLoss().breakdown(logits, target)["dice_per_class"].nan_to_num()
    return {name: share / share.sum() for name, share in found.items()}


def draw_payers() -> Path:
    """Stacked bars, one per loss: which class pays how much."""
    data = segfocal.ShapesDataModule(batch_size=8)
    data.setup("fit")
    data.setup("test")
    rows = shares(trained_net(data), data)
    names = [name.replace("focal, gamma 0", "cross-entropy") for name in rows]
    figure, axis = plt.subplots(figsize=(8, 2.4), layout="constrained")
    left = torch.zeros(len(rows))
    for index, label in enumerate(data.class_names):
        widths = torch.stack([share[index] for share in rows.values()])
        colour = [channel / 255 for channel in data.palette[index]]
        axis.barh(names, widths, left=left, color=colour, edgecolor="white", label=label)
        for row, width in enumerate(widths.tolist()):
            if width > 0.06:
                middle, dark = left[row] + width / 2, sum(colour) < 1.4
                axis.text(middle, row, f"{100 * width:.0f} %", ha="center", va="center", color="w" if dark else "k")
        left = left + widths
    axis.invert_yaxis()
    axis.set(xlim=(0, 1), xticks=[], xlabel="share of each class, test images of the embedded data set")
    axis.spines[["left", "bottom"]].set_visible(False)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=data.num_classes, frameon=False)
    return save(figure, "who_pays.png")


def save(figure: plt.Figure, name: str) -> Path:
    """Write the figure to scripts/results."""
    figure.savefig(RESULTS / name)
    return RESULTS / name


def main() -> None:
    """Draw both."""
    mpl.use("Agg")
    print(draw_gamma())
    print(draw_payers())


if __name__ == "__main__":
    main()
