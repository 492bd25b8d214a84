"""Every form of attention is one task, and computes what the definition says."""

from __future__ import annotations

import attention_forms_heads  # noqa: F401  (adds to FORMS)
import numpy as np
import pytest
from attention_forms import FORMS
from small_models import relative_error

from ansor_lite.compiler import compile_graph
from ansor_lite.frontend.importer import import_network
from ansor_lite.graph.plan import plan_network
from ansor_lite.target import native


def is_product(stage):
    return stage.combiner == "sum" and len({read.tensor for read in stage.reads()}) == 2


def products_of(graph):
    """How many products of two tensors each task that has any computes."""
    counts = {task.name: sum(map(is_product, task.dag.stages)) for task in graph.tasks}
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
