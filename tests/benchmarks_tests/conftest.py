"""A tiny network for the commands."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from small_models import small_cnn


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    onnx.save(small_cnn(), path)
    return path
