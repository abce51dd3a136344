#!/usr/bin/env python3
"""Does with an unmodified oscar-python what its users do, and checks what comes back.

    oscar_client.py http://127.0.0.1:8080 picture.png FOLDER

The picture is red. FOLDER is for what the client reads and writes. Which version of the client it is
says PYTHONPATH; what only newer ones can is done where it is there.
"""

import base64
import json
import sys
import time
from pathlib import Path

import requests
from oscar_python.client import Client
from oscar_python.client_anon import AnonymousClient

FDL = """
functions:
  oscar:
  - hearth:
      name: from-fdl
      memory: 1Gi
      cpu: 1.0
      image: model:mean
      script: script.sh
      log_level: CRITICAL
      expose:
        api_port: 8080
      environment:
        Variables:
          INPUT_TYPE: json
"""


def found(response):
    """Returns the best label of an answer that is base64 of JSON."""
    return json.loads(base64.b64decode(response.text))["predictions"][0]["label"]


def refused(status, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except requests.HTTPError as error:
        assert error.response.status_code == status, error
        return
    raise AssertionError(f"expected {status}")


def until_ended(client, service, job):
    """Waits until a job has ended and returns what became of it; the client has no other way."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        jobs = client.list_jobs(service).json()["jobs"]
        if "finish_time" in jobs[job]:
            return jobs[job]["status"]
        time.sleep(0.01)
    raise AssertionError(f"{job} does not end")


def buckets(client):
    """What OSCAR's own routes do of buckets."""
    assert client.create_bucket("photos", visibility="private").status_code == 201
    refused(400, client.create_bucket, "photos")
    (bucket,) = client.list_buckets().json()
    assert bucket["bucket_name"] == "photos" and bucket["visibility"] == "private", bucket
    assert client.update_bucket("photos", visibility="public").status_code == 204
    assert client.get_bucket("photos").json()["visibility"] == "public"
    signed = client.presign_bucket("photos", "a.txt", operation="upload").json()
    assert requests.put(signed["url"], data=b"sent").status_code == 200
    signed = client.presign_bucket("photos", "a.txt", operation="download").json()
    assert requests.get(signed["url"]).content == b"sent"
    assert client.get_bucket("photos").json()["objects"][0]["object_name"] == "a.txt"
    assert client.delete_bucket("photos").status_code == 204
    assert client.list_buckets().json() == []


def storage(client, endpoint, picture, folder):
    """Puts a file into a bucket and gets it back, with the keys that `/system/config` names."""
    options = {"auth": ("oscar", "secret")}
    made = requests.post(f"{endpoint}/system/buckets", json={"bucket_name": "files"}, **options)
    assert made.status_code == 201, made.text
    store = client.create_storage_client()
    store.upload_file("minio.default", picture, "files/in")
    # Larger than what the client sends in one part.
    large = folder / "large.bin"
    large.write_bytes(bytes(range(256)) * (20 << 12))
    store.upload_file("minio.default", str(large), "files/in/deep")
    listed = store.list_files_from_path("minio.default", "files/in")
    names = [entry["Key"] for entry in listed["Contents"]]
    assert names == ["in/deep/large.bin", f"in/{Path(picture).name}"], names
    back = folder / "back"
    back.mkdir()
    store.download_file("minio.default", str(back), "files/in/deep/large.bin")
    assert (back / "large.bin").read_bytes() == large.read_bytes()
    gone = requests.delete(f"{endpoint}/system/buckets/files", **options)
    assert gone.status_code == 204, gone.text


def main():
    endpoint, picture, folder = sys.argv[1:]
    folder = Path(folder)
    options = {"cluster_id": "hearth", "endpoint": endpoint, "user": "oscar", "password": "secret", "ssl": False}
    client = Client(options)

    assert client.get_cluster_info().json()["version"] == "v4.1.2"
    config = client.get_cluster_config().json()
    assert config["config"]["name"] == "oscar" and "minio_provider" in config
    assert client.get_cluster_status().json()["cluster"]["nodes_count"] == 1
    assert client.list_services().json() == []

    definition = {"name": "from-dict", "image": "model:mean", "script": "#!/bin/sh\n", "memory": "256Mi", "cpu": "0.5"}
    assert client.create_service(definition).status_code == 201
    try:
        client.create_service(definition)
        raise AssertionError("it was created twice")
    except ValueError as error:
        assert "already present" in str(error), error
    (folder / "script.sh").write_text("#!/bin/sh\r\necho hello\r\n")
    (folder / "service.yaml").write_text(FDL)
    assert client.create_service(str(folder / "service.yaml")).status_code == 201
    names = [service["name"] for service in client.list_services().json()]
    assert names == ["from-dict", "from-fdl"], names
    service = client.get_service("from-fdl").json()
    assert service["script"] == "#!/bin/sh\necho hello\n", service
    assert service["environment"]["variables"] == {"INPUT_TYPE": "json"}, service
    assert service["cpu"] == "1.0" and service["expose"]["api_port"] == [8080], service

    definition["log_level"] = "DEBUG"
    assert client.update_service("from-dict", definition).status_code == 204
    assert client.update_service("from-fdl", str(folder / "service.yaml")).status_code == 204
    assert client.get_service("from-dict").json()["log_level"] == "DEBUG"
    assert client.get_service("from-fdl").json()["token"] == service["token"]

    out = folder / "answer.json"
    assert found(client.run_service("from-dict", input=picture, output=str(out))) == "red"
    assert json.loads(out.read_text())["model"] == "mean"
    # Another service's token opens nothing.
    refused(401, client.run_service, "from-dict", input=picture, token=service["token"])
    token = client.get_service("from-dict").json()["token"]
    anonymous = AnonymousClient({"cluster_id": "hearth", "endpoint": endpoint, "ssl": False})
    assert found(anonymous.run_service("from-dict", input=picture, token=token)) == "red"
    refused(400, client.run_service, "from-dict", input="no picture")
    refused(400, client.run_service, "from-dict", input={"a": "b"})

    for body, status in ((picture, "Succeeded"), ("no picture", "Failed")):
        response = client.run_service("from-dict", input=body, async_call=True)
        assert response.status_code == 201 and response.text == ""
        job = response.headers["X-Job-Name"]
        assert until_ended(client, "from-dict", job) == status
        log = client.get_job_logs("from-dict", job).text
        assert ("is no picture" in log) == (status == "Failed"), log
    assert client.remove_job("from-dict", job).status_code == 204
    assert len(client.list_jobs("from-dict").json()["jobs"]) == 1
    assert client.remove_all_jobs("from-dict").status_code == 204
    assert client.list_jobs("from-dict").json()["jobs"] == {}

    if hasattr(client, "get_metrics_summary"):
        assert client.health_check().text == "Ok"
        assert client.get_deployment_status("from-dict").json()["state"] == "ready"
        totals = client.get_metrics_summary().json()["totals"]
        assert totals["services_count_total"] == 2 and totals["requests_count_async"] == 2, totals
        items = client.get_metrics_breakdown().json()["items"]
        assert [item["key"] for item in items] == ["from-dict", "from-fdl"], items
        assert len(client.get_service_metrics("from-dict").json()["metrics"]) == 10
        buckets(client)

    storage(client, endpoint, picture, folder)
    for name in names:
        assert client.remove_service(name).status_code == 204
        refused(404, client.get_service, name)
    assert client.list_services().json() == []
    print("all is as its users expect")


if __name__ == "__main__":
    main()
