"""Names that the front door registers for layers below."""

import importlib.util

from lasfast.core import entry_points


def test_what_the_front_door_registers_is_there():
    python_arguments = entry_points.names(entry_points.CHECK_COMMAND)
    assert python_arguments[:2] == ("-m", "lasfast")
    for module in entry_points.names(entry_points.AUTOTUNED_MODULES):
        assert importlib.util.find_spec(module), module


def test_what_nobody_registered_is_empty(monkeypatch):
    monkeypatch.setattr(entry_points, "_registered", {})
    assert entry_points.names("a purpose") == ()
    entry_points.register("a purpose", "a", "b")
    assert entry_points.names("a purpose") == ("a", "b")
