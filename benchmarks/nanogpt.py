"""The peer: an update of karpathy/nanoGPT, from a checkout of it, stepped as its train.py does."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any


def update_of(
    path: Path,
    shape: tuple[int, int, int],
    rows: int,
    context: int,
    vocab_size: int,
    device: str = "cpu",
    bf16: bool = False,
    compiled: bool = False,
) -> Callable[[], Any]:
    """Zero_grad, forward, backward, clip, step, on tensors made beforehand; gives the loss, for which nothing
    waits. `shape`: width, layers, heads."""
    import torch

    d_model, n_layers, n_heads = shape
    torch.manual_seed(0)
    module = _module(path)
    config = module.GPTConfig(
        block_size=context, vocab_size=vocab_size, n_layer=n_layers, n_head=n_heads, n_embd=d_model,
        dropout=0.0, bias=False,
    )  # fmt: skip
    model = module.GPT(config).to(device)
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), device)
    forward = torch.compile(model) if compiled else model
    x, y = (torch.randint(0, vocab_size, (rows, context), device=device) for _ in range(2))

    def update() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16) if bf16 else nullcontext():
            _, loss = forward(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()  # type: ignore[no-any-return]

    return update


def _module(path: Path) -> Any:
    if "nanogpt_model" not in sys.modules:
        spec = importlib.util.spec_from_file_location("nanogpt_model", path / "model.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["nanogpt_model"] = module
        spec.loader.exec_module(module)
    return sys.modules["nanogpt_model"]
