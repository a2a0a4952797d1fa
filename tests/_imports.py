"""What a source imports."""

import ast


def imports(source):
    """The dotted names that a source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write imports of the package in full"
            yield node.module
            if node.module == "modalign":
                yield from (f"modalign.{alias.name}" for alias in node.names)
