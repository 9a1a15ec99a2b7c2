"""Rewrite the graph that optimum traces from a Gemma 3 checkpoint into the one that is shipped.

What optimum exports is right but slow: about 300 small nodes a layer, keys and values repeated for every head and put
together anew in every pass, the whole prompt's logits. The rewrite keeps its weights and replaces

* the cache by buffers of fixed capacity that `ScatterND` writes new rows into: in place, where input and output are
  bound to the same memory; which cells are written and which are seen is input, so that rewinding costs nothing and
  one pass may serve several sequences,
* attention by ONNX's own `Attention` (opset 23), the query heads that share a key head folded into its rows: keys and
  values are read once for all of them,
* rotary embedding and RMS normalization by `RotaryEmbedding` and `RMSNormalization` (opset 23),
* the output layer by one over the wanted rows alone, on the embedding's own matrix (stored once).

Inputs, n new tokens, c cells of the global layers' caches and d of the local ones':

``input_ids``, ``positions``         (1, n) int64; positions count from 0
``rows``                             (rows,) int64: offsets of the tokens whose logits are wanted
``cells.global``, ``cells.local``    (1, n) int64: in which cell each token's keys and values are written
``mask.global``, ``mask.local``      (n, c) and (n, d) float32, added to the scores: 0 for a cell that the token sees
                                     (its own among them), the lowest number for another
``past_key_values.{i}.{key,value}``  (1, kv_heads, c or d, head_dim) float32, by the kind of layer i

Outputs: ``logits`` (rows, vocab) and ``present.{i}.{key,value}``, the caches with the new rows in them.

Nodes are found by the names of the modules and parameters that they were traced from; what is not found is a
`GraphError`, and a wrong result is caught by the proof that every export makes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from runtimes.onnxruntime_cells import GRAPH

OPSET = 23
IR_VERSION = 11
EMBEDDING = "model.embed_tokens.weight"
KEPT_ROWS = "lm_head.kept.weight"
"""The output matrix, where it has fewer rows than the embedding."""
PAST, PRESENT = "past_key_values.{}.{}", "present.{}.{}"
KINDS = {"sliding_attention": "local", "full_attention": "global"}

Array = npt.NDArray[Any]


class GraphError(Exception):
    """The traced graph is not as this module knows it (another optimum or transformers version)."""


class Graph:
    """Nodes by what they produce, and weights by name; replacing a producer rewires all its consumers.

    Holds copies: any part of a protobuf message that is kept keeps the whole of it, weights included, in memory.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.producer: dict[str, NodeProto] = {}
        for node in model.graph.node:
            mine = NodeProto()
            mine.CopyFrom(node)
            self.producer.update(dict.fromkeys(mine.output, mine))
        self.weights: dict[str, Array] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.same: dict[str, str] = {}
        """Names that stand for another tensor; `ordered` puts that in their place."""

    def node(self, output: str, op_type: str | None = None) -> NodeProto:
        """The node that produces `output`, of kind `op_type`. Raises `GraphError`."""
        found = self.producer.get(output)
        if found is None or op_type not in (None, found.op_type):
            kind = "nothing" if found is None else found.op_type
            raise GraphError(f"expected {op_type or 'a node'} to produce {output!r}, found {kind}")
        return found

    def add(self, op_type: str, inputs: Iterable[str], *outputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node, in place of whatever produced `outputs`; returns the first output's name."""
        made = helper.make_node(op_type, list(inputs), list(outputs), name=outputs[0], domain=domain, **attributes)
        self.producer.update(dict.fromkeys(outputs, made))
        return outputs[0]

    def constant(self, name: str, value: Array) -> str:
        """Store `value` as a weight called `name`; returns the name."""
        self.weights[name] = value
        return name

    def value(self, name: str) -> Array:
        """The value of a weight or of a `Constant` node. Raises `GraphError`."""
        if name in self.weights:
            return self.weights[name]
        value: Array = numpy_helper.to_array(helper.get_node_attr_value(self.node(name, "Constant"), "value"))
        return value

    def linears(self) -> dict[str, str]:
        """Outputs of linear layers -> their weight's name: a MatMul by a transposed weight."""
        found: dict[str, str] = {}
        for output, node in self.producer.items():
            turned = self.producer.get(node.input[1]) if node.op_type == "MatMul" else None
            if turned is not None and turned.op_type == "Transpose" and turned.input[0] in self.weights:
                found[output] = turned.input[0]
        return found

    def ordered(self, outputs: Iterable[str]) -> list[NodeProto]:
        """The nodes that `outputs` need, each behind those it needs."""
        for node in self.producer.values():
            for slot, name in enumerate(node.input):
                node.input[slot] = self.same.get(name, name)
        nodes: dict[str, NodeProto] = {}
        stack = [(self.node(o), False) for o in outputs]
        while stack:
            node, ready = stack.pop()
            if ready:
                nodes[node.output[0]] = node
            elif node.output[0] not in nodes:
                stack.append((node, True))
                stack.extend((self.producer[i], False) for i in node.input if i in self.producer)
        return list(nodes.values())


def rewrite(graph: Graph, config: Mapping[str, Any], *, kept: Sequence[int] | None = None) -> None:
    """Make optimum's graph (traced without constant folding) of a checkpoint with `config` the one that is shipped.

    With `kept`, ``logits`` has only the columns of those token ids, in that order.
    """
    for key in ("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention"):
        if config.get(key):
            raise GraphError(f"the checkpoint's config sets {key}, which this exporter does not know")
    _norms(graph)
    used = {KINDS[kind] for kind in config["layer_types"]}
    _positions(graph, used, int(config["num_attention_heads"]), int(config["num_key_value_heads"]))
    for index, kind in enumerate(config["layer_types"]):
        _attention(graph, index, config, KINDS[kind])
    _head(graph, config, kept)


def finish(graph: Graph, config: Mapping[str, Any], *, domains: Iterable[str] = ()) -> onnx.ModelProto:
    """The model: nodes in order, nothing that is not used, inputs and outputs declared.

    Takes the weights out of `graph` as it goes, so that they exist once. Raises `GraphError` for a gap.
    """
    float_, int_ = TensorProto.FLOAT, TensorProto.INT64
    heads, width = int(config["num_key_value_heads"]), int(config["head_dim"])
    kinds = [KINDS[kind] for kind in config["layer_types"]]
    used = sorted(set(kinds))
    caches = [
        (name.format(i, part), float_, [1, heads, f"{kind} cells", width])
        for name in (PAST, PRESENT)
        for i, kind in enumerate(kinds)
        for part in ("key", "value")
    ]
    by_token = ["input_ids", "positions", *(f"cells.{kind}" for kind in used)]
    taken = [
        *((name, int_, [1, "n"]) for name in by_token),
        ("rows", int_, ["rows"]),
        *((f"mask.{kind}", float_, ["n", f"{kind} cells"]) for kind in used),
        *caches[: len(caches) // 2],
    ]
    given = [
        ("logits", float_, ["rows", _outputs(graph)]),
        *caches[len(caches) // 2 :],
    ]
    inputs, outputs = ([helper.make_tensor_value_info(*entry) for entry in side] for side in (taken, given))
    nodes = graph.ordered(o.name for o in outputs)
    known = {"", *graph.producer, *graph.weights, *(i.name for i in inputs)}
    for name in (i for node in nodes for i in node.input):
        if name not in known:
            raise GraphError(f"nothing produces {name!r}")
    made = helper.make_model(
        helper.make_graph(nodes, "gemma3", inputs, outputs),
        opset_imports=[helper.make_opsetid("", OPSET), *(helper.make_opsetid(d, 1) for d in domains)],
        ir_version=IR_VERSION,
        producer_name="edgecall",
    )
    helper.set_model_props(made, {"edgecall.graph": GRAPH, "sliding_window": str(config["sliding_window"])})
    for name in dict.fromkeys(i for node in nodes for i in node.input):
        if name in graph.weights:
            value = graph.weights.pop(name)
            dtype = helper.np_dtype_to_tensor_dtype(value.dtype)
            made.graph.initializer.add(name=name, data_type=dtype, dims=value.shape, raw_data=value.tobytes())
    return made


def _outputs(graph: Graph) -> int:
    """How many tokens have a logit."""
    weight = graph.node("logits").input[1]
    if weight not in graph.weights:  # stored in fewer bits and cast
        weight = graph.node(weight, "Cast").input[0]
    return len(graph.value(weight))


def transpose_linears(graph: Graph) -> None:
    """Store every linear layer's weight as MatMul wants it, (in, out), instead of turning it at run time."""
    for output, weight in graph.linears().items():
        graph.weights[weight] = np.ascontiguousarray(graph.weights[weight].T)
        graph.add("MatMul", [graph.node(output).input[0], weight], output)


def _norms(graph: Graph) -> None:
    """Gemma's RMS norm, (1 + weight) * x / rms(x), as one node each."""
    for output, node in list(graph.producer.items()):
        if node.op_type != "Mul" or not node.name.endswith("norm/Mul_1"):
            continue
        scaled, weight = graph.node(node.input[0], "Mul"), graph.node(node.input[1], "Add")
        root = graph.node(graph.node(scaled.input[1], "Div").input[1], "Sqrt")
        epsilon = graph.value(graph.node(root.input[0], "Add").input[1])
        name = _uncast(graph, weight.input[0])
        x = _uncast(graph, scaled.input[0])
        graph.same[scaled.input[0]] = x  # the residual reads the norm's cast to float, which here changes nothing
        if graph.producer.get(x) is not None and graph.producer[x].op_type == "Transpose":
            x = graph.producer[x].input[0]  # per-head norms: (1, n, heads, head_dim) serves as well
        gain = graph.constant(name, graph.value(name) + graph.value(weight.input[1]).astype(np.float32))
        graph.add("RMSNormalization", [x, gain], output, axis=-1, epsilon=float(epsilon), stash_type=1)


def _uncast(graph: Graph, name: str) -> str:
    node = graph.producer.get(name)
    return node.input[0] if node is not None and node.op_type == "Cast" else name


def _positions(graph: Graph, used: Collection[str], heads: int, keys: int) -> None:
    """What the layers of each kind that is `used` share, once a pass. A row is a token with one of the query heads of a
    key head, token by token: `cos.{kind}.q`, `sin.{kind}.q` (1, rows, head_dim / 2) and `seen.{kind}` (1, 1, rows,
    cells); for keys `cos.{kind}.k`, `sin.{kind}.k` (1, n, head_dim / 2) and `at.{kind}` (1, keys, n, 3), where they are
    written."""
    last = graph.constant("axis.-1", np.array([-1], np.int64))
    column = graph.add("Cast", [graph.add("Unsqueeze", ["positions", last], "column")], "angle", to=TensorProto.FLOAT)
    copies = graph.constant("shape.copies", np.array([1, 1, heads // keys, 1], np.int64))
    unit = graph.constant("cell.unit", np.array([0, 0, 1], np.int64))
    head = graph.constant("cell.heads", np.array([[[[0, key, 0]] for key in range(keys)]], np.int64))
    around = graph.constant("axes.cells", np.array([1, 3], np.int64))

    def spread(x: str, axes: Sequence[int], shape: Sequence[int], name: str) -> None:
        deep = [x, graph.constant(f"axes.{axes}", np.array(axes, np.int64))]
        wide = graph.add("Expand", [graph.add("Unsqueeze", deep, f"{name}.deep"), copies], f"{name}.heads")
        graph.add("Reshape", [wide, graph.constant(f"shape.{shape}", np.array(shape, np.int64))], name)

    for kind, scope in {"global": "/model/rotary_emb", "local": "/model/rotary_emb_local"}.items():
        if kind not in used:
            continue
        if graph.value(graph.node(f"{scope}/Mul_1_output_0", "Mul").input[1]) != 1.0:
            raise GraphError(f"{scope} scales its cosines, which this exporter does not know")
        frequencies = graph.value(graph.node(f"{scope}/Expand_output_0", "Expand").input[0]).reshape(1, 1, -1)
        angle = graph.add("Mul", [column, graph.constant(f"frequencies.{kind}", frequencies)], f"angle.{kind}")
        for name, op_type in {"cos": "Cos", "sin": "Sin"}.items():
            found = graph.add(op_type, [angle], f"{name}.{kind}.k")
            spread(found, [2], [1, -1, frequencies.size], f"{name}.{kind}.q")
        spread(f"mask.{kind}", [0, 2], [1, 1, -1, 0], f"seen.{kind}")
        cells = graph.add("Unsqueeze", [f"cells.{kind}", around], f"cells.{kind}.deep")
        graph.add("Add", [graph.add("Mul", [cells, unit], f"cells.{kind}.last"), head], f"at.{kind}")


def _attention(graph: Graph, index: int, config: Mapping[str, Any], kind: str) -> None:
    """One layer's norms of q and k, rotation, cache, scores and mixing, up to the output projection."""
    scope = f"/model/layers.{index}/self_attn"
    width, heads = int(config["head_dim"]), int(config["num_attention_heads"])
    keys = int(config["num_key_value_heads"])
    rotated = {}
    for letter in "qk":
        normed = f"{scope}/{letter}_norm/Mul_1_output_0"
        norm = graph.node(normed, "RMSNormalization")
        projected = graph.node(norm.input[0], "Reshape").input[0]
        norm.input[0] = _by_key_head(graph, projected, keys, width, f"{scope}/{letter}_rows")
        rope = [normed, f"cos.{kind}.{letter}", f"sin.{kind}.{letter}"]
        rotated[letter] = graph.add("RotaryEmbedding", rope, f"{scope}/{letter}_rotated")
    cached = graph.node(PRESENT.format(index, "value"), "Concat").input[1]
    projected = graph.node(graph.node(cached, "Transpose").input[0], "Reshape").input[0]
    values = _by_key_head(graph, projected, keys, width, f"{scope}/v_rows")
    mixed = graph.node(f"{scope}/o_proj/MatMul_output_0", "MatMul").input[0]
    filled = []
    for part, new in {"key": rotated["k"], "value": values}.items():
        past, present = (name.format(index, part) for name in (PAST, PRESENT))
        filled.append(graph.add("ScatterND", [past, f"at.{kind}", new], present))
    scale = float(config["query_pre_attn_scalar"]) ** -0.5
    out = graph.add("Attention", [rotated["q"], *filled, f"seen.{kind}"], f"{scope}/mixed", scale=scale)
    if keys > 1:
        groups = graph.constant("shape.groups", np.array([1, keys, -1, heads // keys * width], np.int64))
        out = graph.add("Reshape", [out, groups], f"{scope}/mixed_groups")
        out = graph.add("Transpose", [out], f"{scope}/mixed_tokens", perm=[0, 2, 1, 3])
    graph.add("Reshape", [out, graph.constant("shape.mixed", np.array([1, -1, heads * width], np.int64))], mixed)


def _by_key_head(graph: Graph, x: str, keys: int, width: int, name: str) -> str:
    """(1, n, heads * head_dim) -> (1, keys, rows, head_dim): token by token the heads that belong to a key head."""
    if keys > 1:
        groups = graph.constant("shape.keys", np.array([0, 0, keys, -1], np.int64))
        x = graph.add("Reshape", [x, groups], f"{name}.groups")
        x = graph.add("Transpose", [x], f"{name}.turned", perm=[0, 2, 1, 3])
    return graph.add("Reshape", [x, graph.constant("shape.rows", np.array([1, keys, -1, width], np.int64))], name)


def _head(graph: Graph, config: Mapping[str, Any], kept: Sequence[int] | None) -> None:
    """Logits of the wanted rows: taken out before the last norm, then one product with the output matrix."""
    head = graph.node("logits", "MatMul")
    matrix = graph.linears().get("logits")
    if matrix is None:
        raise GraphError("the logits are not a product with a stored matrix")
    if kept is not None:
        matrix = graph.constant(KEPT_ROWS, np.ascontiguousarray(graph.value(matrix)[list(kept)]))
    norm = graph.node(head.input[0], "RMSNormalization")
    norm.input[0] = graph.add("Gather", [norm.input[0], "rows"], "wanted", axis=1)
    # Gemm and not MatMul by a transpose, which ONNX Runtime would fold into a second copy of the matrix.
    flat = graph.constant("shape.wanted", np.array([-1, int(config["hidden_size"])], np.int64))
    wanted = graph.add("Reshape", [head.input[0], flat], "wanted.rows")
    graph.add("Gemm", [wanted, matrix], "logits", transB=1)
