"""Calls of the net and of the loss, which may be anyone's: what they raise is told with what they were given."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

Outputs = TypeVar("Outputs")
_NO_COMPILER = ("InductorError", "BackendCompilerFailed")  # torch's errors; their modules are heavy to import


def call_net(
    predict: Callable[..., Outputs], net: nn.Module, inputs: Tensor, size: Sequence[int] | None, divisor: int
) -> Outputs:
    """Run a net on images by one of the functions of `segfocal.inference`.

    Raises:
        ValueError: The net does not take the images, or cannot be compiled.
    """
    try:
        return predict(net, inputs, None if size is None else tuple(size), divisor=divisor)
    except (RuntimeError, LookupError, TypeError) as error:
        if "memory" in str(error):  # not the net's fault
            raise
        if type(error).__name__ in _NO_COMPILER:
            raise ValueError(
                "Expected `compile` to find what torch.compile needs: a C++ compiler, or on a GPU Triton and a C "
                f"compiler, got: {str(error).splitlines()[0]:.300} Install it, or set model.compile to false."
            ) from error
        shape = tuple(inputs.shape)
        raise ValueError(f"Expected the net to take images {shape}, but it raised: {error!s:.300}") from error


def call_loss(loss: Callable[..., Any], logits: Tensor, mask: Tensor) -> Any:  # noqa: ANN401
    """The loss of a batch, or its breakdown.

    Raises:
        ValueError: The loss does not take logits and masks, or returns a tensor that is no scalar.
    """
    try:
        result = loss(logits, mask)
    except (RuntimeError, LookupError, TypeError, AttributeError) as error:
        if "memory" in str(error):  # not the loss's fault
            raise
        shapes = f"{tuple(logits.shape)} and {tuple(mask.shape)}"
        raise ValueError(
            f"Expected the loss to take logits and masks, {shapes}, but it raised: {error!s:.300}"
        ) from error
    if not isinstance(result, dict) and (not isinstance(result, Tensor) or result.ndim):
        got = f"shape {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
        raise ValueError(f"Expected the loss to return a scalar, got {got}. Let it reduce to the mean.")
    return result
