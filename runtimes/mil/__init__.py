"""A reference interpreter for Core ML's ML programs: any machine's numpy executes what an ``.mlpackage`` says.

    program = load(Path("model.mlpackage"))
    plan = make_plan(program.main, program.path)
    state = new_state(plan)
    outputs = execute(plan, {"input_ids": …}, state)

It follows the MIL reference operation by operation (`runtimes.mil.operations`). What it proves is the graph, the
weights and the number formats. How Core ML's GPU or Neural Engine order and round the sums inside an operation it
cannot say.
"""

from __future__ import annotations

from runtimes.mil.operations import OPERATIONS
from runtimes.mil.plan import Held, Plan, fixed_values, make_plan
from runtimes.mil.program import Function, Program
from runtimes.mil.reading import from_spec, load, quiet
from runtimes.mil.run import State, Watch, execute, new_state
from runtimes.mil.step import PRECISIONS, Precision

__all__ = [
    "OPERATIONS",
    "PRECISIONS",
    "Function",
    "Held",
    "Plan",
    "Precision",
    "Program",
    "State",
    "Watch",
    "execute",
    "fixed_values",
    "from_spec",
    "load",
    "make_plan",
    "new_state",
    "quiet",
]
