"""Asks a running Hearth what the conformance cases ask, with Triton's own clients.

    clients.py HTTP_ADDRESS GRPC_ADDRESS

Ends with 1 after saying which cases were not answered as they should be.
"""

import json
import queue
import sys
from pathlib import Path

import numpy
import tritonclient.grpc
import tritonclient.http
import tritonclient.utils

FOLDER = Path(__file__).parent
FILES = ["server.json", "models.json", "repository.json", "infer.json"]
GRPC_CODES = {
    400: "INVALID_ARGUMENT",
    404: "NOT_FOUND",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def main():
    http = tritonclient.http.InferenceServerClient(sys.argv[1])
    grpc = tritonclient.grpc.InferenceServerClient(sys.argv[2])
    differences = json.loads((FOLDER / "differences.json").read_text())
    wrong, n_asked = [], 0
    for case in [case for file in FILES for case in json.loads((FOLDER / file).read_text())]:
        if "client" not in case:
            continue
        name = case["case"]
        answer = case["answer"]
        if name in differences:
            own = differences[name]["answer"]
            answer = overlaid(answer, own)
            if "status" in own and "json" in own:
                answer["json"] = own["json"]
        for client in (http, grpc):
            n_asked += 1
            where = f"{name}, {client.__module__}"
            wrong += [f"{where}: {why}" for why in ask(client, case, answer)]
    for client in (http, grpc):
        n_asked += 1
        wrong += [f"{client.__module__}: {why}" for why in beyond_the_cases(client)]
    print("\n".join(wrong) or f"{n_asked} calls were answered as they should be")
    return 1 if wrong else 0


def is_grpc(client):
    return client.__module__.startswith("tritonclient.grpc")


def ask(client, case, answer):
    """Yields what is wrong with the answer to a case."""
    method, *arguments = [case["client"]] if isinstance(case["client"], str) else case["client"]
    try:
        if method == "infer":
            result = infer(client, case["request"].split("/")[3], case["json"])
        else:
            as_json = is_grpc(client) and method.startswith("get_")
            result = getattr(client, method)(*arguments, **({"as_json": True} if as_json else {}))
    except tritonclient.utils.InferenceServerException as error:
        status = GRPC_CODES.get(answer["status"], "?") if is_grpc(client) else str(answer["status"])
        if not (error.status() or "").endswith(status):
            yield f"expected status {status}, got {error.status()}: {error.message()}"
        elif not is_grpc(client) or status != "UNIMPLEMENTED":
            # What gRPC does not offer is refused before anybody looks what it is.
            yield from compare("error", answer["json"]["error"], error.message())
        return
    if answer["status"] != 200:
        yield f"expected status {answer['status']}, got {result}"
    elif "text" in answer:
        if result not in (None, True):
            yield f"expected nothing or True, got {result}"
    else:
        # What over HTTP is the answer itself is a field of the message.
        field = {"get_model_config": "config", "get_model_repository_index": "models"}.get(method)
        yield from compare("", answer["json"], result[field] if field and is_grpc(client) else result)


def module_of(client):
    return tritonclient.grpc if is_grpc(client) else tritonclient.http


def tensors(client, tensors):
    """Returns tensors of the protocol's JSON as the client takes them."""
    inputs = []
    for tensor in tensors:
        data = tensor["data"]
        if isinstance(data, dict):
            value, n = data["$repeat"]
            data = [value] * n
        dtype = tritonclient.utils.triton_to_np_dtype(tensor["datatype"])
        array = numpy.array(data, dtype=dtype).reshape(tensor["shape"])
        inputs.append(module_of(client).InferInput(tensor["name"], tensor["shape"], tensor["datatype"]))
        inputs[-1].set_data_from_numpy(array)
    return inputs


def infer(client, model, request):
    """Sends a request of the protocol's JSON, and returns the answer as such."""
    inputs = tensors(client, request["inputs"])
    outputs = [module_of(client).InferRequestedOutput(output["name"]) for output in request.get("outputs", [])]
    result = client.infer(model, inputs, outputs=outputs or None, request_id=request.get("id", ""))
    response = result.get_response(as_json=True) if is_grpc(client) else result.get_response()
    for output in response["outputs"]:
        output["data"] = result.as_numpy(output["name"]).ravel().tolist()
    return response


HALVES = [{"name": "x", "shape": [1, 64], "datatype": "FP32", "data": {"$repeat": [0.5, 64]}}]
ANSWER = [-0.125, -0.375, 0.0625, -0.1875, 0.25, 0.0, -0.25, 0.1875, -0.0625, 0.375]


def beyond_the_cases(client):
    """Yields what is wrong with what the clients do beside asking once and waiting."""
    inputs = tensors(client, HALVES)

    def check(what, result):
        got = result.as_numpy("y").ravel().tolist()
        if got != ANSWER:
            yield f"{what}: expected {ANSWER}, got {got}"

    if is_grpc(client):
        answers = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        for at in range(8):
            client.async_stream_infer("mlp", inputs, request_id=str(at))
        for at in range(8):
            result, error = answers.get(timeout=60)
            if error or result.get_response().id != str(at):
                yield f"stream: expected the answer to {at}, got {error or result.get_response()}"
            else:
                yield from check("stream", result)
        client.stop_stream()
        for at in range(8):
            client.async_infer("mlp", inputs, lambda result, error: answers.put((result, error)))
        for at in range(8):
            result, error = answers.get(timeout=60)
            yield from [f"async: {error}"] if error else check("async", result)
    else:
        for coding in ("gzip", "deflate"):
            codings = {"request_compression_algorithm": coding, "response_compression_algorithm": coding}
            yield from check(coding, client.infer("mlp", inputs, **codings))
        as_json = tritonclient.http.InferInput("x", [1, 64], "FP32")
        as_json.set_data_from_numpy(numpy.full((1, 64), 0.5, numpy.float32), binary_data=False)
        wanted = tritonclient.http.InferRequestedOutput("y", binary_data=False)
        yield from check("JSON", client.infer("mlp", [as_json], outputs=[wanted]))
        for asked in [client.async_infer("mlp", inputs) for _ in range(8)]:
            yield from check("async", asked.get_result())

    # In microseconds.
    yield from refused(client, "a timeout", 504, lambda: client.infer("mlp", inputs, timeout=1))
    load = lambda: client.load_model("mlp", config="{}")
    yield from refused(client, "a configuration", 501, load)
    client.unload_model("mlp")
    if client.is_model_ready("mlp"):
        yield "expected it not to be ready once it is unloaded"
    yield from refused(client, "an unloaded model", 503, lambda: client.infer("mlp", inputs))
    client.load_model("mlp")
    if not client.is_model_ready("mlp"):
        yield "expected it to be ready once it is loaded"
    yield from check("after loading", client.infer("mlp", inputs))
    as_json = {"as_json": True} if is_grpc(client) else {}
    stats = client.get_inference_statistics("mlp", **as_json)["model_stats"][0]
    success = stats["inference_stats"]["success"]
    if (int(stats["inference_count"]), int(success["count"])) != (1, 1) or int(success["ns"]) == 0:
        yield f"expected the statistics of one request, got {stats}"


def refused(client, what, status, call):
    try:
        yield f"{what}: expected status {status}, got {call()}"
    except tritonclient.utils.InferenceServerException as error:
        expected = GRPC_CODES[status] if is_grpc(client) else str(status)
        if not (error.status() or "").endswith(expected):
            yield f"{what}: expected status {expected}, got {error.status()}: {error.message()}"


def overlaid(captured, own):
    """Lays what is answered on purpose over what was captured."""
    answer = dict(captured)
    for key, value in own.items():
        before = answer.get(key)
        is_object = isinstance(before, dict) and isinstance(value, dict) and "$has" not in value
        answer[key] = overlaid(before, value) if is_object else value
    return answer


def compare(at, pattern, value):
    """Yields where a value is not as the pattern. Messages leave out what is zero or empty, and write
    long integers as strings."""
    if isinstance(pattern, dict) and "$has" in pattern:
        for part in pattern["$has"]:
            if part not in str(value):
                yield f"{at}: {part!r} is not in {value!r}"
    elif isinstance(pattern, dict) and isinstance(value, (dict, type(None))):
        for key, inner in pattern.items():
            yield from compare(f"{at}.{key}", inner, (value or {}).get(key))
    elif isinstance(pattern, list) and isinstance(value, (list, type(None))):
        if len(pattern) != len(value or []):
            yield f"{at}: expected {pattern}, got {value}"
        for index, (inner, item) in enumerate(zip(pattern, value or [])):
            yield from compare(f"{at}[{index}]", inner, item)
    elif pattern in ("$string", "$number"):
        if not value:
            yield f"{at}: expected a {pattern[1:]}, got {value!r}"
    elif value is None and not pattern:
        pass
    elif at.endswith(("format", "kind", "priority")) and value is None:
        # The first of an enumeration is left out too.
        pass
    elif isinstance(pattern, (int, float)) and not isinstance(pattern, bool):
        if value is None or float(value) != pattern:
            yield f"{at}: expected {pattern}, got {value!r}"
    elif pattern != value:
        yield f"{at}: expected {pattern!r}, got {value!r}"


if __name__ == "__main__":
    sys.exit(main())
