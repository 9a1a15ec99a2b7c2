"""A process that routes one request, as a program that embeds the router does, and says what that took.

It imports what `Router.open` needs and no more. Its argument is JSON: ``folder``, ``runtime``, ``device``, ``threads``,
``user``, ``context``, ``save_prefix``, ``plugins``, and ``started_ns``, the monotonic clock (which all processes of a
machine share) from just before this one was started.
"""

import sys
import time


def main(argument: str) -> None:
    import json

    asked = json.loads(argument)
    if asked["plugins"]:
        import importlib

        for name in asked["plugins"]:
            importlib.import_module(name)
    from router.core import Router

    imported_ns, imported_cpu = time.monotonic_ns(), time.process_time()
    with Router.open(
        asked["folder"], runtime=asked["runtime"], device=asked["device"], threads=asked["threads"],
        save_prefix=asked["save_prefix"],
    ) as router:  # fmt: skip
        opened_ns = time.monotonic_ns()
        result = router.route(asked["user"], asked["context"])
        answered_ns, cpu = time.monotonic_ns(), time.process_time()
        told = {
            "wall_ms": (answered_ns - asked["started_ns"]) / 1e6,
            "cpu_ms": cpu * 1e3,
            "import_ms": (imported_ns - asked["started_ns"]) / 1e6,
            "import_cpu_ms": imported_cpu * 1e3,
            "open_ms": (opened_ns - imported_ns) / 1e6,
            "request_ms": (answered_ns - opened_ns) / 1e6,
            "prefix_restored": router.prefix_restored,
            "error": result.error,
        }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Exception as error:
        from runtimes.console import explain

        line = explain(error)
        if line is None:  # a bug keeps its traceback
            raise
        sys.exit(line)
