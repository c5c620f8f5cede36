"""Reads genotypes as the files and logs of DARTS and of its successors have them; nothing of them is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any, TypeAlias

FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
"""The fields of a genotype, in the order in which DARTS' namedtuple has them."""

Pair: TypeAlias = tuple[str, int]
"""An edge as genotypes write it: its operation, and the node that it comes from."""


def read_genotype(text: str) -> dict[str, Any]:
    """Return the values of a genotype's fields, which are literals or `range(first, end)`.

    The text is `Genotype(normal=..., normal_concat=..., reduce=..., reduce_concat=...)`, with or without the
    fields' names; or it is a dict of the fields, which JSON may have written. `NAME = ` may stand before it.

    Raises:
        ValueError: the text is none of these, or a field is missing, unknown or there twice.
    """
    fields: dict[str, Any] = {}
    for name, value in _fields(text):
        if name not in FIELDS or name in fields:
            got = f"{name} twice" if name in FIELDS else f"another: {name!r}"
            raise ValueError(f"a genotype must have the fields {', '.join(FIELDS)}, got {got}")
        fields[name] = _value(name, value, text)
    missing = [name for name in FIELDS if name not in fields]
    if missing:
        raise ValueError(
            f"a genotype must have the fields {', '.join(FIELDS)}; "
            f"{', '.join(missing)} is missing in {text!r}"
        )
    return fields


def edges_of_nodes(field: str, value: object, nodes: int) -> list[list[Pair]]:
    """Return the edges of each intermediate node of a cell.

    Args:
        field: the name of the genotype's field.
        value: its value: a list of edges, two for each node; or a list of nodes, each a list of its edges.
        nodes: how many intermediate nodes there are.

    Raises:
        ValueError: the value is neither, or a list of more or fewer edges.
    """
    items: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
    if not all(map(_is_edge, items)):
        for node in items:
            if not isinstance(node, list | tuple) or not all(map(_is_edge, node)):
                raise ValueError(
                    f"{field} must be a list of edges such as ('sep_conv_3x3', 0), or such a list for each "
                    f"node, got {node!r}"
                )
        return [[(name, source) for name, source in node] for node in items]
    if len(items) != 2 * nodes:
        raise ValueError(
            f"{field} must have {2 * nodes} edges, two for each of the {nodes} nodes, got {len(items)}"
        )
    return [[(name, source) for name, source in items[first : first + 2]] for first in range(0, 2 * nodes, 2)]


def is_concat(value: object, nodes: range) -> bool:
    """Return whether the value of a genotype's concat field names these nodes, in their order."""
    if isinstance(value, range):
        return value == nodes
    if isinstance(value, set):
        return value == set(nodes)
    return isinstance(value, list | tuple) and list(value) == list(nodes)


def _is_edge(value: object) -> bool:
    return isinstance(value, list | tuple) and tuple(map(type, value)) == (str, int)


def _fields(text: str) -> Iterator[tuple[Any, ast.expr]]:
    """Give the name and the value of each field as they stand in the text, whatever they are."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"text must be a genotype, got {text!r}: {error}") from error
    statement = body[0] if len(body) == 1 else None
    value = statement.value if isinstance(statement, ast.Expr | ast.Assign) else None
    match value:
        case ast.Call(
            func=ast.Name("Genotype") | ast.Attribute(attr="Genotype"), args=args, keywords=keywords
        ):
            yield from zip(FIELDS, args, strict=False)
            yield from ((keyword.arg, keyword.value) for keyword in keywords)
            surplus = len(args) - len(FIELDS)
        case ast.Dict(keys=keys, values=values):
            # `**others` has no key, and a key may be no literal.
            yield from ((getattr(key, "value", None), one) for key, one in zip(keys, values, strict=True))
            surplus = 0
        case _:
            raise ValueError(
                "text must be a genotype, Genotype(normal=[('sep_conv_3x3', 0), ...], "
                f"normal_concat=[2, 3, 4, 5], reduce=[...], reduce_concat=[2, 3, 4, 5]), got {text!r}"
            )
    if surplus > 0:
        raise ValueError(f"a genotype must have the fields {', '.join(FIELDS)}, got {surplus} more")


def _value(field: str, value: ast.expr, text: str) -> Any:
    """Return the value of an expression in the text, of literals or a range; ValueError for any other."""
    try:
        match value:
            case ast.Call(func=ast.Name("range"), args=ends, keywords=[]):
                return range(*map(ast.literal_eval, ends))
        return ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, OverflowError) as error:
        source = ast.get_source_segment(text, value)
        raise ValueError(f"{field} must be a list of literals or range(first, end), got {source}") from error
