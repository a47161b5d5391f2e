"""The private names of torch that concern compilation: a failing test says what this torch has changed."""

import logging
import threading
from functools import partial

import pytest

torch = pytest.importorskip("torch")

from sparsecore_torch._torch_internals import compilation, tensors


def says(what):
    return f"torch {torch.__version__}: {what}"


def test_models_are_traced_with_fake_tensors_and_each_has_its_own_recompilations():
    fake, compilations = [], []

    def scaled(x, factor):
        return x * factor

    def backend(module, _):
        compilations.append(module)
        given = [node.meta.get("example_value") for node in module.graph.nodes]
        fake.extend(tensors.is_fake(one) for one in given if isinstance(one, torch.Tensor))
        return module

    for _ in range(12):  # more models than torch compiles the same code for by default
        compiled = compilation.compiled_apart(scaled, partial(backend))
        for factor in (2, 3):
            with compilation.compiling_anything():
                compiled(torch.ones(2), float(factor))
    assert all(fake), says("the tensors that a model is traced with are no FakeTensors")
    assert not tensors.is_fake(torch.ones(1))
    assert len(compilations) >= 12, says("models that run the same code share what is compiled for them")


def test_code_that_cannot_be_traced_runs_as_it_is_on_request():
    def failing(*_):
        raise ValueError("this backend compiles nothing")

    compiled = torch.compile(lambda x: x + 1, backend=failing)
    with compilation.compiling_anything():
        result = compiled(torch.ones(2))
    assert result.tolist() == [2, 2], says("errors of a compiler end the call that is compiled")


def test_threads_that_compile_at_overlapping_times_leave_the_settings_and_the_log_as_they_were():
    logger = logging.getLogger("torch._dynamo.convert_frame")
    before, filters = torch._dynamo.config.suppress_errors, list(logger.filters)
    both, inside = threading.Barrier(2, timeout=60), []

    def first():
        with compilation.compiling_anything():
            both.wait()
            both.wait()
        both.wait()

    def second():
        both.wait()
        with compilation.compiling_anything():
            both.wait()
            both.wait()
            inside.append((torch._dynamo.config.suppress_errors, len(logger.filters)))

    threads = [threading.Thread(target=one) for one in (first, second)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert inside == [(True, len(filters) + 1)], says("settings of torch._dynamo are not shared by threads as assumed")
    assert (torch._dynamo.config.suppress_errors, logger.filters) == (before, filters)


def test_hooks_of_modules_are_looked_for_at_each_call_of_a_compiled_model():
    module, seen = torch.nn.Sequential(torch.nn.ReLU()), []
    compiled = torch.compile(module.forward, backend="eager")
    for expected in ([], ["hook"]):
        with compilation.compiling_anything():
            compiled(torch.ones(2))
        assert seen == expected, says("a compiled model runs without hooks that its modules were given later")
        module[0].register_forward_hook(lambda *_: seen.append("hook"))


def test_code_that_cannot_be_traced_is_logged_in_one_line(caplog, monkeypatch):
    logger = logging.getLogger("torch._dynamo.convert_frame")
    monkeypatch.setattr(logger, "propagate", False)  # whether torch's loggers do depends on its version
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    with compilation.compiling_anything():
        logger.warning("not converted %s\nTraceback\n  a line of it\ntorch._dynamo.exc.Unsupported: why\n", "forward")
    logger.warning("two\nlines")
    assert caplog.messages == ["not converted forward: torch._dynamo.exc.Unsupported: why", "two\nlines"]


def test_a_length_marked_unbacked_does_not_recompile():
    compilations = []

    def backend(graph, _):
        compilations.append(graph)
        return graph.forward

    compiled = torch.compile(lambda vector: vector * 2, fullgraph=True, backend=backend)
    for length in (5, 7, 11):
        vector = torch.ones(length)
        compilation.mark_unbacked(vector, 0)
        compiled(vector)
    assert len(compilations) == 1, says(f"{len(compilations)} lengths were compiled for 3 vectors of unbacked length")


def test_errors_of_the_compiler_have_their_classes():
    def refuse(*_):
        raise RuntimeError("no compiler")

    with pytest.raises(compilation.BackendCompilerFailed):
        torch.compile(lambda x: x + 1, backend=refuse)(torch.ones(1))
    with pytest.raises(compilation.Unsupported):
        torch.compile(lambda x: torch._dynamo.graph_break() or x, fullgraph=True, backend="eager")(torch.ones(1))
