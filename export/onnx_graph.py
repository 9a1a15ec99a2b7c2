"""Rewrite the graph that optimum traces from a Gemma 3 checkpoint into the one that is shipped.

What optimum exports is right but slow: about 300 small nodes a layer, keys and values repeated for every head, the
whole prompt's logits in every pass. The rewrite keeps its weights and its data flow, and replaces

* attention and its mask by ONNX's own `Attention` (opset 23) under an explicit causal or sliding-window mask,
* rotary embedding and RMS normalization by `RotaryEmbedding` and `RMSNormalization` (opset 23),
* positions, which optimum derives from an attention mask, by the length of the cache: one sequence, no padding,
* the output layer by one over the wanted rows alone (`first_row`), on the embedding's own matrix (stored once).

The result takes ``input_ids`` (1, n), ``past_key_values.{i}.{key,value}`` (1, kv_heads, past, head_dim) and
``first_row`` (1,), the first row of logits that is wanted: 0 for all, -1 for the last alone. It gives ``logits``
(1, rows, vocab) and ``present.{i}.{key,value}`` (1, kv_heads, past + n, head_dim). Ids and rows are int64.

Nodes are found by the names of the modules and parameters that they were traced from; what is not found is a
`GraphError`, and a wrong result is caught by the proof that every export makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

OPSET = 23
IR_VERSION = 11
EMBEDDING = "model.embed_tokens.weight"
KEPT_ROWS = "lm_head.kept.weight"
"""The output matrix, where it has fewer rows than the embedding."""
PAST, PRESENT, FIRST_ROW = "past_key_values.{}.{}", "present.{}.{}", "first_row"

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
    _positions(graph, int(config["sliding_window"]))
    for index, kind in enumerate(config["layer_types"]):
        _attention(graph, index, config, "local" if kind == "sliding_attention" else "global")
    _head(graph, config, kept)


def finish(graph: Graph, config: Mapping[str, Any], *, domains: Iterable[str] = ()) -> onnx.ModelProto:
    """The model: nodes in order, nothing that is not used, inputs and outputs declared.

    Takes the weights out of `graph` as it goes, so that they exist once. Raises `GraphError` for a gap.
    """
    float_, int_ = TensorProto.FLOAT, TensorProto.INT64
    shape = [1, int(config["num_key_value_heads"]), "past", int(config["head_dim"])]
    total = [*shape[:2], "past + n", shape[3]]
    pairs = [(i, kind) for i in range(int(config["num_hidden_layers"])) for kind in ("key", "value")]
    inputs = [
        helper.make_tensor_value_info("input_ids", int_, [1, "n"]),
        *(helper.make_tensor_value_info(PAST.format(i, kind), float_, shape) for i, kind in pairs),
        helper.make_tensor_value_info(FIRST_ROW, int_, [1]),
    ]
    outputs = [
        helper.make_tensor_value_info("logits", float_, [1, "rows", int(graph.value("shape.logits")[-1])]),
        *(helper.make_tensor_value_info(PRESENT.format(i, kind), float_, total) for i, kind in pairs),
    ]
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
    for name in dict.fromkeys(i for node in nodes for i in node.input):
        if name in graph.weights:
            value = graph.weights.pop(name)
            dtype = helper.np_dtype_to_tensor_dtype(value.dtype)
            made.graph.initializer.add(name=name, data_type=dtype, dims=value.shape, raw_data=value.tobytes())
    return made


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


def _positions(graph: Graph, window: int) -> None:
    """Positions, masks and rotations, once a pass: `mask.{kind}` (n, past + n), `cos.{kind}` (1, n, head_dim / 2)."""
    ints = {"int.0": 0, "int.1": 1, "int.window": window}
    for name, number in ints.items():
        graph.constant(name, np.array(number, np.int64))
    graph.constant("axis.0", np.array([0], np.int64))
    graph.constant("axis.-1", np.array([-1], np.int64))
    past = graph.add("Squeeze", [graph.add("Shape", [PAST.format(0, "key")], "past.shape", start=2, end=3)], "past")
    new = graph.add("Squeeze", [graph.add("Shape", ["input_ids"], "new.shape", start=1, end=2)], "new")
    total = graph.add("Add", [past, new], "total")
    keys = graph.add("Range", ["int.0", total, "int.1"], "key.positions")
    rows = graph.add("Unsqueeze", [graph.add("Range", [past, total, "int.1"], "positions"), "axis.-1"], "row.positions")
    causal = graph.add("LessOrEqual", [keys, rows], "mask.global")
    horizon = graph.add("Sub", [rows, "int.window"], "horizon")
    graph.add("And", [causal, graph.add("Greater", [keys, horizon], "near")], "mask.local")
    column = graph.add("Unsqueeze", [rows, "axis.0"], "column")
    angle_of = graph.add("Cast", [column], "column.float", to=TensorProto.FLOAT)
    for kind, scope in {"global": "/model/rotary_emb", "local": "/model/rotary_emb_local"}.items():
        if graph.value(graph.node(f"{scope}/Mul_1_output_0", "Mul").input[1]) != 1.0:
            raise GraphError(f"{scope} scales its cosines, which this exporter does not know")
        frequencies = graph.value(graph.node(f"{scope}/Expand_output_0", "Expand").input[0]).reshape(1, 1, -1)
        angle = graph.add("Mul", [angle_of, graph.constant(f"frequencies.{kind}", frequencies)], f"angle.{kind}")
        graph.add("Cos", [angle], f"cos.{kind}")
        graph.add("Sin", [angle], f"sin.{kind}")


def _attention(graph: Graph, index: int, config: Mapping[str, Any], kind: str) -> None:
    """One layer's rotation, cache, scores and mixing, between the norms of q and k and the output projection."""
    scope = f"/model/layers.{index}/self_attn"
    heads = {"q": int(config["num_attention_heads"]), "k": int(config["num_key_value_heads"])}
    split = graph.constant("shape.split", np.array([0, 0, -1, int(config["head_dim"])], np.int64))
    merge = graph.constant("shape.merge", np.array([0, 0, -1], np.int64))
    rotated = []
    for letter, count in heads.items():
        normed = f"{scope}/{letter}_norm/Mul_1_output_0"
        norm = graph.node(normed, "RMSNormalization")
        projected = graph.node(norm.input[0], "Reshape").input[0]
        graph.add("Reshape", [projected, split], norm.input[0])
        flat = graph.add("Reshape", [normed, merge], f"{scope}/{letter}_flat")
        rope = [flat, f"cos.{kind}", f"sin.{kind}"]
        rotated.append(graph.add("RotaryEmbedding", rope, f"{scope}/{letter}_rotated", num_heads=count))
    cached = graph.node(PRESENT.format(index, "value"), "Concat").input[1]
    values = graph.node(graph.node(cached, "Transpose").input[0], "Reshape").input[0]
    mixed = graph.node(f"{scope}/o_proj/MatMul_output_0", "MatMul").input[0]
    past, present = ([p.format(index, x) for x in ("key", "value")] for p in (PAST, PRESENT))
    graph.add(
        "Attention",
        [*rotated, values, f"mask.{kind}", *past],
        *(mixed, *present),
        q_num_heads=heads["q"],
        kv_num_heads=heads["k"],
        scale=float(config["query_pre_attn_scalar"]) ** -0.5,
    )


def _head(graph: Graph, config: Mapping[str, Any], kept: Sequence[int] | None) -> None:
    """Logits of the rows from `first_row` on: cut before the last norm, then one product with the output matrix."""
    head = graph.node("logits", "MatMul")
    matrix = graph.linears().get("logits")
    if matrix is None:
        raise GraphError("the logits are not a product with a stored matrix")
    if kept is not None:
        matrix = graph.constant(KEPT_ROWS, np.ascontiguousarray(graph.value(matrix)[list(kept)]))
    norm = graph.node(head.input[0], "RMSNormalization")
    end = graph.constant("row.end", np.array([np.iinfo(np.int64).max], np.int64))
    axis = graph.constant("axis.1", np.array([1], np.int64))
    norm.input[0] = graph.add("Slice", [norm.input[0], FIRST_ROW, end, axis], "wanted")
    # Gemm and not MatMul by a transpose, which ONNX Runtime would fold into a second copy of the matrix.
    flat = graph.constant("shape.rows", np.array([-1, int(config["hidden_size"])], np.int64))
    deep = graph.constant("shape.logits", np.array([1, -1, len(graph.value(matrix))], np.int64))
    rows = graph.add("Reshape", [head.input[0], flat], "wanted.rows")
    graph.add("Reshape", [graph.add("Gemm", [rows, matrix], "logits.rows", transB=1), deep], "logits")
