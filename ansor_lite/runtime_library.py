"""TVM's runtime library through its C interface, without Python's ``tvm``.

Importing ``tvm`` maps the compiler and LLVM, 160 MB that a finished network has no use for. Calling
compiled functions and sizing the thread pool takes the two small libraries below.
"""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from ansor_lite.errors import InputError

# What a TVMFFIAny can hold (``TVMFFITypeIndex`` of tvm/ffi/c_api.h); objects are above.
NONE, INT, TEXT, FIRST_OBJECT = 0, 1, 8, 64

# Python package -> its library; later ones need the symbols of earlier ones.
LIBRARIES = (("tvm_ffi", "libtvm_ffi.so"), ("tvm", "libtvm_runtime.so"))


class AnyValue(ctypes.Structure):
    """``TVMFFIAny``: a type and 8 bytes, a number or a pointer."""

    _fields_ = [("kind", ctypes.c_int32), ("zero", ctypes.c_uint32), ("bits", ctypes.c_int64)]


class _Bytes(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("size", ctypes.c_size_t)]


class _ErrorObject(ctypes.Structure):
    _fields_ = [("header", ctypes.c_int64 * 3), ("kind", _Bytes), ("message", _Bytes)]


class Handle:
    """Owns one reference to an object of the runtime: a function, a module, an array."""

    def __init__(self, address: int) -> None:
        self.address = address
        self._release = library().TVMFFIObjectDecRef

    @staticmethod
    def shared(address: int) -> Handle:
        """A reference of our own to an object that somebody else owns."""
        library().TVMFFIObjectIncRef(address)
        return Handle(address)

    def __del__(self) -> None:
        self._release(self.address)


@cache
def library() -> ctypes.CDLL:
    """The C interface. Raises :class:`InputError` when TVM is not installed."""
    loaded = []
    for package, name in LIBRARIES:
        spec = importlib.util.find_spec(package)
        folders = spec.submodule_search_locations if spec is not None else None
        found = [
            Path(f) / "lib" / name for f in folders or () if (Path(f) / "lib" / name).is_file()
        ]
        if not found:
            raise InputError(f"{name} is missing: install apache-tvm")
        loaded.append(ctypes.CDLL(str(found[0]), ctypes.RTLD_GLOBAL))
    interface = loaded[0]
    address = ctypes.c_void_p
    interface.TVMFFIObjectIncRef.argtypes = interface.TVMFFIObjectDecRef.argtypes = [address]
    interface.TVMFFIFunctionCall.argtypes = [address, address, ctypes.c_int32, address]
    interface.TVMFFIErrorMoveFromRaised.argtypes = [address]
    interface.TVMFFIErrorMoveFromRaised.restype = None
    return interface


@cache
def global_function(name: str) -> Handle:
    """A function that the runtime registered; lives as long as the process."""
    text = ctypes.create_string_buffer(name.encode())
    key = _Bytes(ctypes.addressof(text), len(text.value))
    found = ctypes.c_void_p()
    library().TVMFFIFunctionGetGlobal(ctypes.byref(key), ctypes.byref(found))
    if not found.value:
        raise InputError(f"the TVM runtime has no function {name!r}")
    return Handle(found.value)


def call(function: int, arguments: Any, count: int) -> AnyValue:
    """Call a function object; ``arguments``: an array of ``AnyValue`` or the address of one.

    Raises ``RuntimeError`` with the message of an error that the function raised.
    """
    result = AnyValue()
    if library().TVMFFIFunctionCall(function, arguments, count, ctypes.byref(result)):
        raise RuntimeError(_raised())
    return result


def call_global(name: str, *arguments: object) -> Any:
    """Call a registered function with integers, strings and handles."""
    values = (AnyValue * max(len(arguments), 1))()
    texts = [ctypes.c_char_p(a.encode()) if isinstance(a, str) else None for a in arguments]
    for value, argument, text in zip(values, arguments, texts, strict=False):
        if isinstance(argument, Handle):
            header = ctypes.cast(argument.address, ctypes.POINTER(ctypes.c_int32))
            value.kind, value.bits = header[2], argument.address
        elif text is not None:
            value.kind, value.bits = TEXT, ctypes.cast(text, ctypes.c_void_p).value or 0
        else:
            value.kind, value.bits = INT, argument
    result = call(global_function(name).address, values, len(arguments))
    if result.kind >= FIRST_OBJECT:
        return Handle(result.bits)
    return result.bits if result.kind != NONE else None


def _raised() -> str:
    """The message of the error that the last call left in this thread."""
    found = ctypes.c_void_p()
    library().TVMFFIErrorMoveFromRaised(ctypes.byref(found))
    if not found.value:
        return "a compiled function failed"
    error = Handle(found.value)
    message = ctypes.cast(error.address, ctypes.POINTER(_ErrorObject)).contents.message
    return ctypes.string_at(message.data, message.size).decode(errors="replace")


class LoadedCode:
    """The functions of a shared library that TVM wrote."""

    def __init__(self, path: Path) -> None:
        self._module = call_global("ffi.ModuleLoadFromFile", str(path.resolve()))

    def function(self, name: str) -> Handle:
        found: Handle = call_global("ffi.ModuleGetFunction", self._module, name, 0)
        return found
