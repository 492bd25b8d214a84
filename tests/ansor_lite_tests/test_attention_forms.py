"""Every form of attention is one task, and computes what the definition says."""

from __future__ import annotations

import dataclasses

import attention_forms_heads  # noqa: F401  (adds to FORMS)
import numpy as np
import onnx
import pytest
from attention_forms import FORMS
from attention_graphs import BATCH, HEADS, TOKENS, Graph, heads_first, of_inputs, scores_of, softmax
from small_models import relative_error

from ansor_lite.compiler import compile_graph
from ansor_lite.frontend.importer import import_network
from ansor_lite.graph.plan import plan_network
from ansor_lite.target import native
from search_space.sketch_generation import generate_sketches


def is_product(stage):
    return stage.combiner == "sum" and len({read.tensor for read in stage.reads()}) == 2


def products_of_task(task):
    return sum(map(is_product, task.dag.stages))


def products_of(graph):
    """How many products of two tensors each task that has any computes."""
    counts = {task.name: products_of_task(task) for task in graph.tasks}
    return {name: count for name, count in counts.items() if count}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_one_task_with_its_values(name):
    form = FORMS[name]()
    graph = plan_network(import_network(form.model))
    products = products_of(graph)
    assert [count for count in products.values() if count > 1] == [2], products
    assert not graph.opaque
    found = compile_graph(graph, lambda task: None, native(2)).run(form.feeds)["y"]
    assert np.isfinite(found).all()
    assert relative_error(found, form.expected) < 1e-5


def checked_products(made):
    """``products_of`` the form's graph, after comparing its values."""
    graph = plan_network(import_network(made.model))
    found = compile_graph(graph, lambda task: None, native(2)).run(made.feeds)["y"]
    assert relative_error(found, made.expected) < 1e-5
    return products_of(graph)


def test_shares_that_are_a_result_are_computed_by_operators_of_their_own():
    g = Graph()
    q, k, v = heads_first(g)
    shares = softmax(g, scores_of(g, q, k))
    made = g.form(g.MatMul(shares, v), of_inputs(g))
    made.model.graph.output.append(onnx.ValueInfoProto(name=shares))
    assert list(checked_products(made).values()) == [1, 1]


def test_what_is_no_softmax_is_computed_by_operators_of_their_own():
    """The sums run along the queries: no row of the result is known before all scores are."""
    g = Graph()
    q, k, v = heads_first(g)
    scores = scores_of(g, q, k)
    made = g.form(g.MatMul(g.Softmax(scores, axis=2), v), np.zeros((BATCH, HEADS, TOKENS, 16)))
    exact = {n: np.asarray(x, np.float64) for n, x in made.feeds.items()}
    raw = np.exp(exact["q"] @ exact["k"].swapaxes(2, 3) / 4)
    expected = raw / raw.sum(2, keepdims=True) @ exact["v"]
    products = checked_products(dataclasses.replace(made, expected=expected))
    assert list(products.values()) == [1, 1]


TRIED = ("padding_in_front_and_causal", "grouped_by_expanding", "merged_projections_split")


@pytest.mark.parametrize("name", (*TRIED, "table_of_swin", "softmax_over_rows"))
def test_other_schedules_of_a_form_compute_the_same(name):
    form = FORMS[name]()
    graph = plan_network(import_network(form.model))
    attention = next(task for task in graph.tasks if products_of_task(task) == 2)
    rng = np.random.default_rng(len(name))
    for sketch in generate_sketches(attention.dag, native(2).hardware()):
        steps = sketch.close(sketch.random(1, rng)[0])
        chosen = {attention.key: steps}
        module = compile_graph(graph, lambda task, chosen=chosen: chosen.get(task.key), native(2))
        assert relative_error(module.run(form.feeds)["y"], form.expected) < 1e-5
