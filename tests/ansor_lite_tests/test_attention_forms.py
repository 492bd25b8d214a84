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


@pytest.mark.parametrize("name", FORMS)
def test_the_values_of_a_form(name):
    form = FORMS[name]()
    module = compile_graph(plan_network(import_network(form.model)), lambda task: None, native(2))
    found = module.run(form.feeds)["y"]
    assert np.isfinite(found).all()
    assert relative_error(found, form.expected) < 1e-5
