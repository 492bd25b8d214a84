"""Networks in: an ONNX file, a ``ModelProto`` or a Relax ``IRModule`` becomes a ``Network``.

Read ``importer.py`` first. ``onnx_file.py`` reads and checks, ``onnx_graph.py`` is a mutable view
of a graph, ``onnx_rewrites.py`` simplifies it in numpy before TVM sees it: its table names the
rewrites in order, each in a file of its own. Only ``importer.py`` loads TVM.
"""

from ansor_lite.frontend.network import Network, TensorInfo

__all__ = ["Network", "TensorInfo"]
