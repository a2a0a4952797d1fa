"""Source is parsed from many threads."""

import ast
import concurrent.futures
import gc
import sys
import time

from modalign._parsing import parse

SOURCE = "x = 1\ny = f(2)[3]\n" * 50


def test_threads_that_parse_beside_one_another_all_get_their_tree():
    def elsewhere(*_):
        time.sleep(0)  # another thread may run here, in the middle of a tree

    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.callbacks.append(elsewhere)
    gc.set_threshold(5)
    sys.setswitchinterval(1e-6)
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            trees = list(pool.map(parse, [SOURCE] * 40))
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*threshold)
        gc.callbacks.remove(elsewhere)
    assert {ast.dump(tree) for tree in trees} == {ast.dump(ast.parse(SOURCE))}
