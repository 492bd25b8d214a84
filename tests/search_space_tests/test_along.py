"""What goes along with an axis: from readers to what they read, and back."""

from __future__ import annotations

from schedules.dag import REDUCE, ComputeDAG, IterAxis, Stage, Tensor
from schedules.expr import Axis, Call, Const, Expr, Read
from search_space.along import Along, axes_read, axes_reading, inside_blocks, inside_chunks
from search_space.draft import Draft

F = "float32"
N = 6


def _read(tensor: str, *indices: Expr | str) -> Read:
    return Read(tensor, tuple(Axis(i) if isinstance(i, str) else i for i in indices), F)


def _stage(name: str, axes: str, *reads: Read, reduced: str = "") -> Stage:
    """Sums or products of ``reads``, over the axes of ``reduced`` if any."""
    body: Expr = reads[0]
    for read in reads[1:]:
        body = Call("mul", (body, read), F)
    all_axes = [IterAxis(a, N) for a in axes] + [IterAxis(a, N, REDUCE) for a in reduced]
    return Stage(name, tuple(all_axes), body, F, "sum" if reduced else None)


def _dag(*stages: Stage) -> ComputeDAG:
    return ComputeDAG((Tensor("data", (N, N), F),), stages, (stages[-1].name,))


SOURCE = _stage("source", "ij", _read("data", "i", "j"))
LATER = Call("add", (Axis("p"), Const(1, "int64")), "int64")
WHOLE: Along = {"reader": {"p": "row", "q": "column"}}


def _axes_read(*reads: Read) -> dict[str, str]:
    return axes_read(_dag(SOURCE, _stage("reader", "pq", *reads)), SOURCE, WHOLE)


def test_axes_go_along_with_those_of_a_reader_wherever_they_stand() -> None:
    assert _axes_read(_read("source", "q", "p")) == {"i": "column", "j": "row"}


def test_all_reads_must_agree() -> None:
    assert _axes_read(_read("source", "p", "q"), _read("source", "p", "p")) == {}
    first = _read("source", "p", Const(0, "int64"))
    assert _axes_read(_read("source", "p", "q"), first) == {"i": "row"}


def test_a_neighbour_and_a_diagonal_are_more_than_one_element() -> None:
    assert _axes_read(_read("source", LATER, "q")) == {"j": "column"}
    assert _axes_read(_read("source", "p", "p")) == {}


def test_readers_that_are_not_known_have_no_say() -> None:
    other = _stage("other", "pq", _read("source", "q", "p"))
    dag = _dag(SOURCE, _stage("reader", "pq", _read("source", "p", "q")), other)
    assert axes_read(dag, SOURCE, WHOLE) == {"i": "row", "j": "column"}
    both: Along = WHOLE | {"other": {"p": "row", "q": "column"}}
    assert axes_read(dag, SOURCE, both) == {}


def test_axes_go_along_with_those_of_what_is_read() -> None:
    known: Along = {"source": {"i": "row", "j": "column"}}
    total = _stage("total", "p", _read("source", "p", "k"), reduced="k")
    assert axes_reading(_dag(SOURCE, total), total, known) == {"p": "row"}


def test_refuses_because_something_else_is_read_that_is_not_known() -> None:
    known: Along = {"source": {"i": "row", "j": "column"}}
    other = _stage("other", "pq", _read("data", "p", "q"))
    product = _stage("product", "pq", _read("source", "p", "q"), _read("other", "p", "q"))
    assert axes_reading(_dag(SOURCE, other, product), product, known) == {}
    weighed = _stage("weighed", "pq", _read("source", "p", "q"), _read("data", "q", "p"))
    assert axes_reading(_dag(SOURCE, weighed), weighed, known) == {"p": "row", "q": "column"}


# ``total`` and ``kept`` read ``powers``, and ``shared`` is read outside as well.
SHARED = _stage("shared", "ij", _read("data", "i", "j"))
POWERS = _stage("powers", "ij", _read("shared", "i", "j"))
TOTAL = _stage("total", "i", _read("powers", "i", "k"), reduced="k")
KEPT = _stage("kept", "ic", _read("powers", "i", "c"))
OUT = _stage("out", "ij", _read("total", "i"), _read("kept", "i", "j"), _read("shared", "j", "i"))
DAG = _dag(SHARED, POWERS, TOTAL, KEPT, OUT)


def test_inside_blocks_is_what_nobody_else_needs() -> None:
    draft = Draft(DAG, DAG)
    rows = inside_blocks(draft, {"total": "i", "kept": "i"})
    assert rows == {"total": "i", "kept": "i", "powers": "i"}
    assert inside_blocks(draft, {"total": "i"}) == {"total": "i"}


def test_inside_chunks_is_what_one_chunk_needs_and_leaves() -> None:
    draft = Draft(DAG, DAG)
    start: Along = {"kept": {"i": "row", "c": "chunk"}}
    inside = inside_chunks(draft, start, "chunk", DAG.by_name)
    assert inside.keys() == {"kept", "powers", "shared"}
    assert inside["powers"] == {"i": "row", "j": "chunk"}
    by_rows = inside_chunks(draft, start, "row", DAG.by_name)
    assert by_rows.keys() == {"kept", "powers", "shared", "total"}
    assert inside_chunks(draft, start, "chunk", ["powers"]).keys() == {"kept", "powers"}
