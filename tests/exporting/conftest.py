import pytest

for package in ("flatbuffers", "onnx", "onnxruntime"):
    pytest.importorskip(package, reason="needs the extra export")
