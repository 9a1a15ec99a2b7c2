"""The loss curve of a run as a picture."""

from __future__ import annotations

from pathlib import Path

from train.journal import read_events


def plot_loss(log: Path, picture: Path, *, title: str) -> None:
    """Draw training loss and validation loss over steps from ``log.jsonl`` into `picture`, a PNG.

    Raises `UserError` with file and line for a line that is no event; a last one that a kill cut short is passed over.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    events = read_events(log)
    train = {e["step"]: e["loss"] for e in events if "loss" in e}
    held = {e["step"]: e["validation"] for e in events if "validation" in e}
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(list(train), list(train.values()), color="#8aa2c8", linewidth=1, label="training")
    axes.plot(list(held), list(held.values()), color="#c0392b", marker="o", markersize=3, label="validation")
    axes.set(xlabel="step", ylabel="cross-entropy per completion token (nats)", title=title, yscale="log")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(picture, dpi=120)
    plt.close(figure)
