#!/usr/bin/env python3
"""Does with an unmodified boto3 what S3's users do, and checks what comes back.

    s3_client.py http://127.0.0.1:9000 ACCESS_KEY SECRET_KEY FOLDER

FOLDER is for what the client reads and writes. The store is empty, and is left so.
"""

import base64
import hashlib
import io
import sys
import urllib.error
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

MIB = 1 << 20


def client_of(endpoint, access_key, secret_key, **config):
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}, **config),
    )


def refused(code, call, **kwargs):
    """Calls what has to fail so, and returns the status."""
    try:
        call(**kwargs)
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, f"expected {code}, got {error}"
        return error.response["ResponseMetadata"]["HTTPStatusCode"]
    raise AssertionError(f"expected {code}")


def http(method, url, body=None, headers=None):
    request = urllib.request.Request(url, data=body, method=method, headers=headers or {})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def buckets(s3):
    assert s3.list_buckets()["Buckets"] == []
    s3.create_bucket(Bucket="photos")
    assert refused("BucketAlreadyOwnedByYou", s3.create_bucket, Bucket="photos") == 409
    s3.create_bucket(Bucket="archive")
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["archive", "photos"]
    assert s3.head_bucket(Bucket="photos")["BucketRegion"] == "us-east-1"
    assert refused("404", s3.head_bucket, Bucket="none") == 404
    assert s3.get_bucket_location(Bucket="photos")["LocationConstraint"] is None
    assert "Status" not in s3.get_bucket_versioning(Bucket="photos")
    assert refused("NoSuchBucket", s3.delete_bucket, Bucket="none") == 404
    assert refused("NoSuchBucket", s3.put_object, Bucket="none", Key="key", Body=b"") == 404


def objects(s3):
    body = b"not really a picture"
    md5 = hashlib.md5(body)
    put = s3.put_object(
        Bucket="photos",
        Key="in/a.jpg",
        Body=body,
        ContentType="image/jpeg",
        ContentMD5=base64.b64encode(md5.digest()).decode(),
        CacheControl="max-age=60",
        ContentDisposition='attachment; filename="a.jpg"',
        ContentLanguage="ca",
        Expires=datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
        Metadata={"hearth-job": "job-1"},
    )
    assert put["ETag"] == f'"{md5.hexdigest()}"', put
    got = s3.get_object(Bucket="photos", Key="in/a.jpg")
    assert got["Body"].read() == body
    head = s3.head_object(Bucket="photos", Key="in/a.jpg", ChecksumMode="ENABLED")
    for said in (got, head):
        assert said["ContentLength"] == len(body) and said["ETag"] == put["ETag"], said
        assert said["ContentType"] == "image/jpeg" and said["CacheControl"] == "max-age=60", said
        assert said["ContentDisposition"] == 'attachment; filename="a.jpg"', said
        assert said["ContentLanguage"] == "ca" and said["ExpiresString"].startswith("Wed, 02 Jan 2030"), said
        assert said["Metadata"] == {"hearth-job": "job-1"}, said
        assert abs(said["LastModified"] - datetime.now(timezone.utc)) < timedelta(minutes=1), said
    # The client takes a CRC itself unless it is told not to.
    assert head["ChecksumCRC32"] == put["ChecksumCRC32"] and head["ChecksumType"] == "FULL_OBJECT", head

    for range_, expected, said in (
        ("bytes=4-9", body[4:10], f"bytes 4-9/{len(body)}"),
        ("bytes=4-", body[4:], f"bytes 4-{len(body) - 1}/{len(body)}"),
        ("bytes=-3", body[-3:], f"bytes {len(body) - 3}-{len(body) - 1}/{len(body)}"),
        ("bytes=0-9999", body, f"bytes 0-{len(body) - 1}/{len(body)}"),
    ):
        part = s3.get_object(Bucket="photos", Key="in/a.jpg", Range=range_)
        assert part["Body"].read() == expected and part["ContentRange"] == said, part
        assert part["ResponseMetadata"]["HTTPStatusCode"] == 206, part
    assert refused("InvalidRange", s3.get_object, Bucket="photos", Key="in/a.jpg", Range="bytes=99-") == 416

    there = {"Bucket": "photos", "Key": "in/a.jpg"}
    hour = timedelta(hours=1)
    now = datetime.now(timezone.utc)
    assert refused("304", s3.get_object, **there, IfNoneMatch=put["ETag"]) == 304
    assert refused("304", s3.head_object, **there, IfModifiedSince=now + hour) == 304
    assert refused("PreconditionFailed", s3.get_object, **there, IfMatch='"other"') == 412
    assert refused("PreconditionFailed", s3.get_object, **there, IfUnmodifiedSince=now - hour) == 412
    s3.get_object(**there, IfMatch=put["ETag"], IfModifiedSince=now - hour)
    assert refused("PreconditionFailed", s3.put_object, **there, Body=b"", IfNoneMatch="*") == 412
    assert refused("PreconditionFailed", s3.put_object, **there, Body=b"", IfMatch='"other"') == 412

    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    assert refused("BadDigest", s3.put_object, Bucket="photos", Key="in/b.jpg", Body=body, ContentMD5=wrong) == 400
    assert refused("BadDigest", s3.put_object, Bucket="photos", Key="in/b.jpg", Body=body, ChecksumCRC32="AAAAAA==") == 400
    assert refused("404", s3.head_object, Bucket="photos", Key="in/b.jpg") == 404
    assert refused("NoSuchKey", s3.get_object, Bucket="photos", Key="in/b.jpg") == 404
    assert refused("MetadataTooLarge", s3.put_object, Bucket="photos", Key="b", Body=b"", Metadata={"k": "v" * 2048}) == 400
    for algorithm in ("CRC32", "SHA1", "SHA256"):
        put = s3.put_object(Bucket="photos", Key="summed", Body=io.BytesIO(body), ChecksumAlgorithm=algorithm)
        head = s3.head_object(Bucket="photos", Key="summed", ChecksumMode="ENABLED")
        field = f"Checksum{algorithm}"
        assert put[field] == head[field] and head[field], head
    # Chunks whose checksum comes behind them.
    large = bytes(range(256)) * 12_000
    s3.put_object(Bucket="photos", Key="summed", Body=io.BytesIO(large), ChecksumAlgorithm="CRC32")
    assert s3.get_object(Bucket="photos", Key="summed")["Body"].read() == large
    s3.delete_object(Bucket="photos", Key="summed")
    s3.delete_object(Bucket="photos", Key="summed")

    # A folder, and an object without bytes.
    s3.put_object(Bucket="photos", Key="empty/")
    assert s3.head_object(Bucket="photos", Key="empty/")["ContentLength"] == 0
    assert s3.get_object(Bucket="photos", Key="empty/")["Body"].read() == b""


def copies(s3):
    source = {"Bucket": "photos", "Key": "in/a.jpg"}
    before = s3.head_object(**source)
    copy = s3.copy_object(Bucket="archive", Key="a copy.jpg", CopySource=source)
    assert copy["CopyObjectResult"]["ETag"] == before["ETag"], copy
    after = s3.head_object(Bucket="archive", Key="a copy.jpg")
    assert after["Metadata"] == before["Metadata"] and after["ContentType"] == "image/jpeg", after
    s3.copy_object(
        Bucket="photos", Key="in/a.jpg", CopySource=source, MetadataDirective="REPLACE", Metadata={"other": "1"}
    )
    assert s3.head_object(**source)["Metadata"] == {"other": "1"}
    assert refused("InvalidRequest", s3.copy_object, **source, CopySource=source) == 400
    copy = {"Bucket": "archive", "Key": "none", "CopySource": {"Bucket": "photos", "Key": "none"}}
    assert refused("NoSuchKey", s3.copy_object, **copy) == 404
    copy["CopySource"] = source
    assert refused("PreconditionFailed", s3.copy_object, **copy, CopySourceIfMatch='"other"') == 412


def listings(s3):
    keys = sorted(
        ["a/1", "a/2", "a/b/3", "b", "c/1", "é/ü ñ.jpg", "with+plus & <xml>", "zz\x01control"],
        key=lambda key: key.encode(),
    )
    s3.create_bucket(Bucket="listed")
    for key in keys:
        s3.put_object(Bucket="listed", Key=key, Body=b"1")

    def all_of(method, **kwargs):
        pages = list(s3.get_paginator(method).paginate(Bucket="listed", **kwargs))
        contents = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        folders = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]
        return contents, folders, len(pages)

    for method in ("list_objects", "list_objects_v2"):
        assert all_of(method) == (keys, [], 1)
        for size in (1, 2, 3):
            contents, folders, n_pages = all_of(method, PaginationConfig={"PageSize": size})
            assert contents == keys and n_pages == -(-len(keys) // size), (contents, n_pages)
            contents, folders, _ = all_of(method, Delimiter="/", PaginationConfig={"PageSize": size})
            assert folders == ["a/", "c/", "é/"], folders
            assert contents == ["b", "with+plus & <xml>", "zz\x01control"], contents
        assert all_of(method, Prefix="a/", Delimiter="/")[:2] == (["a/1", "a/2"], ["a/b/"])
        assert all_of(method, Prefix="none")[:2] == ([], [])
    assert all_of("list_objects_v2", StartAfter="b")[0] == keys[4:]
    page = s3.list_objects_v2(Bucket="listed", MaxKeys=2, FetchOwner=True)
    assert page["KeyCount"] == 2 and page["IsTruncated"] and "Owner" in page["Contents"][0], page
    assert page["Contents"][0]["Size"] == 1 and page["Contents"][0]["StorageClass"] == "STANDARD", page
    assert refused("InvalidArgument", s3.list_objects_v2, Bucket="listed", ContinuationToken="!") == 400
    assert refused("NoSuchBucket", s3.list_objects, Bucket="none") == 404

    refused("BucketNotEmpty", s3.delete_bucket, Bucket="listed")
    deleted = s3.delete_objects(Bucket="listed", Delete={"Objects": [{"Key": key} for key in keys[:3] + ["none"]]})
    assert [entry["Key"] for entry in deleted["Deleted"]] == keys[:3] + ["none"], deleted
    quiet = {"Objects": [{"Key": key} for key in keys[3:]], "Quiet": True}
    assert "Deleted" not in s3.delete_objects(Bucket="listed", Delete=quiet)
    s3.delete_bucket(Bucket="listed")


def hostile_keys(s3):
    s3.create_bucket(Bucket="hostile")
    keys = ["..", "../../etc/passwd", "a//b", "/a", "//", "a/../b", "./a", "日本/語.jpg", "%2e%2e", "a?b#c", "ä" * 512]
    for key in keys:
        s3.put_object(Bucket="hostile", Key=key, Body=key.encode())
    listed = [entry["Key"] for entry in s3.list_objects_v2(Bucket="hostile")["Contents"]]
    assert listed == sorted(keys, key=lambda key: key.encode()), listed
    for key in keys:
        assert s3.get_object(Bucket="hostile", Key=key)["Body"].read() == key.encode(), key
    assert refused("KeyTooLongError", s3.put_object, Bucket="hostile", Key="k" * 1025, Body=b"") == 400
    for key in keys:
        s3.delete_object(Bucket="hostile", Key=key)
    s3.delete_bucket(Bucket="hostile")


def parts(s3, folder):
    where = {"Bucket": "photos", "Key": "video.mp4"}
    first, last = bytes(range(256)) * (5 * MIB // 256), b"the end"
    upload = s3.create_multipart_upload(**where, ContentType="video/mp4", Metadata={"k": "v"})["UploadId"]
    (listed,) = s3.list_multipart_uploads(Bucket="photos")["Uploads"]
    assert (listed["Key"], listed["UploadId"]) == ("video.mp4", upload), listed
    of = {**where, "UploadId": upload}
    # The second part is sent twice; the last one counts.
    etags = []
    for number, body in ((1, first), (2, b"wrong"), (2, last)):
        etag = s3.upload_part(**of, PartNumber=number, Body=body)["ETag"]
        assert etag == f'"{hashlib.md5(body).hexdigest()}"', etag
        etags.append(etag)
    listed = s3.list_parts(**of, MaxParts=1)
    assert [part["PartNumber"] for part in listed["Parts"]] == [1] and listed["IsTruncated"], listed
    listed = s3.list_parts(**of, PartNumberMarker=1)
    assert [(part["ETag"], part["Size"]) for part in listed["Parts"]] == [(etags[2], len(last))], listed

    def complete(*named):
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in named]
        return s3.complete_multipart_upload(**of, MultipartUpload={"Parts": parts})

    for code, named in (
        ("InvalidPart", [(1, etags[0]), (2, etags[1])]),
        ("InvalidPart", [(1, etags[0]), (3, etags[2])]),
        ("InvalidPartOrder", [(2, etags[2]), (1, etags[0])]),
    ):
        assert refused(code, lambda named=named: complete(*named)) == 400
    assert refused("404", s3.head_object, **where) == 404
    done = complete((1, etags[0]), (2, etags[2]))
    md5s = b"".join(bytes.fromhex(etag.strip('"')) for etag in (etags[0], etags[2]))
    assert done["ETag"] == f'"{hashlib.md5(md5s).hexdigest()}-2"', done
    # Who has not heard the answer asks again.
    assert complete((1, etags[0]), (2, etags[2]))["ETag"] == done["ETag"]
    assert refused("NoSuchUpload", lambda: complete((1, etags[0]))) == 404
    got = s3.get_object(**where)
    assert got["Body"].read() == first + last and got["ContentType"] == "video/mp4", got
    assert got["Metadata"] == {"k": "v"}, got
    assert refused("NoSuchUpload", s3.list_parts, **of) == 404

    upload = s3.create_multipart_upload(**where)["UploadId"]
    of = {**where, "UploadId": upload}
    etags = [s3.upload_part(**of, PartNumber=number, Body=b"small")["ETag"] for number in (1, 2)]
    assert refused("EntityTooSmall", lambda: complete((1, etags[0]), (2, etags[1]))) == 400
    assert refused("NoSuchUpload", s3.upload_part, **{**of, "Key": "other"}, PartNumber=1, Body=b"") == 404
    copied = s3.upload_part_copy(**of, PartNumber=1, CopySource=where, CopySourceRange=f"bytes=0-{len(first) - 1}")
    etag = copied["CopyPartResult"]["ETag"]
    assert etag == f'"{hashlib.md5(first).hexdigest()}"', copied
    complete((1, etag), (2, etags[1]))
    assert s3.get_object(**where)["Body"].read() == first + b"small"

    upload = s3.create_multipart_upload(**where)["UploadId"]
    s3.upload_part(**where, UploadId=upload, PartNumber=1, Body=first)
    s3.abort_multipart_upload(**where, UploadId=upload)
    assert refused("NoSuchUpload", s3.abort_multipart_upload, **where, UploadId=upload) == 404
    assert "Uploads" not in s3.list_multipart_uploads(Bucket="photos")

    for kind, algorithm in (("COMPOSITE", "SHA256"), ("COMPOSITE", "CRC32"), ("FULL_OBJECT", "CRC32")):
        summed = {"ChecksumAlgorithm": algorithm}
        upload = s3.create_multipart_upload(**where, **summed, ChecksumType=kind)["UploadId"]
        of = {**where, "UploadId": upload}
        named = []
        for number, body in ((1, first), (2, last)):
            part = s3.upload_part(**of, PartNumber=number, Body=body, **summed)
            field = f"Checksum{algorithm}"
            named.append({"PartNumber": number, "ETag": part["ETag"], field: part[field]})
        of = {**of, "MultipartUpload": {"Parts": named}, "ChecksumType": kind}
        if algorithm == "SHA256":
            sums = b"".join(base64.b64decode(part[field]) for part in named)
            # As MinIO's clients say it, without the number of parts.
            of[field] = base64.b64encode(hashlib.sha256(sums).digest()).decode()
            wrong = {**of, field: base64.b64encode(hashlib.sha256(b"").digest()).decode()}
            assert refused("BadDigest", s3.complete_multipart_upload, **wrong) == 400
        s3.complete_multipart_upload(**of)
        head = s3.head_object(**where, ChecksumMode="ENABLED")
        assert head["ChecksumType"] == kind, head
        if kind == "FULL_OBJECT":
            crc = zlib.crc32(first + last).to_bytes(4, "big")
            assert head[field] == base64.b64encode(crc).decode(), head
        elif algorithm == "SHA256":
            of_parts = hashlib.sha256(hashlib.sha256(first).digest() + hashlib.sha256(last).digest())
            assert head[field] == base64.b64encode(of_parts.digest()).decode() + "-2", head

    # As most programs do it, many parts at a time.
    large = folder / "large.bin"
    large.write_bytes(bytes(range(256)) * (21 * MIB // 256))
    s3.upload_file(str(large), "photos", "large.bin", Config=TransferConfig(multipart_threshold=8 * MIB))
    assert s3.head_object(Bucket="photos", Key="large.bin")["ETag"].endswith('-3"')
    back = folder / "back.bin"
    s3.download_file("photos", "large.bin", str(back), Config=TransferConfig(multipart_threshold=8 * MIB))
    assert back.read_bytes() == large.read_bytes()
    s3.copy({"Bucket": "photos", "Key": "large.bin"}, "archive", "large.bin")
    assert s3.head_object(Bucket="archive", Key="large.bin")["ContentLength"] == 21 * MIB


def signatures(s3, endpoint, access_key, secret_key):
    there = {"Bucket": "photos", "Key": "in/a.jpg"}
    wrong = client_of(endpoint, access_key, secret_key[:-1] + "x")
    assert refused("SignatureDoesNotMatch", wrong.get_object, **there) == 403
    assert refused("SignatureDoesNotMatch", wrong.put_object, **there, Body=b"x" * MIB) == 403
    nobody = client_of(endpoint, "nobody", secret_key)
    assert refused("InvalidAccessKeyId", nobody.list_buckets) == 403
    old = client_of(endpoint, access_key, secret_key, signature_version="s3")
    assert refused("NotImplemented", old.list_buckets) == 501
    status, body = http("GET", f"{endpoint}/photos/in/a.jpg")
    assert (status, b"AccessDenied" in body) == (403, True), body

    # By query: the client still signs these in the old way, which Amazon takes for old buckets only,
    # unless it is told not to.
    url = s3.generate_presigned_url("get_object", Params=there, ExpiresIn=60)
    assert "Signature=" in url and http("GET", url)[0] == 501, url
    s3 = client_of(endpoint, access_key, secret_key, signature_version="s3v4")
    wrong = client_of(endpoint, access_key, secret_key[:-1] + "x", signature_version="s3v4")
    body = b"sent without credentials"
    put = {"Bucket": "photos", "Key": "presigned é/1.txt", "ContentType": "text/plain"}
    url = s3.generate_presigned_url("put_object", Params=put, ExpiresIn=60)
    assert http("PUT", url, body, {"Content-Type": "text/plain"})[0] == 200
    # What was signed has to be sent, as it was.
    assert http("PUT", url, body, {"Content-Type": "text/html"})[0] == 403
    get = {"Bucket": "photos", "Key": "presigned é/1.txt"}
    url = s3.generate_presigned_url("get_object", Params=get, ExpiresIn=60)
    assert http("GET", url) == (200, body)
    assert http("PUT", url, body)[0] == 403
    assert http("GET", url.replace("1.txt", "2.txt"))[0] == 403
    asked = {**get, "ResponseContentType": "image/png"}
    assert s3.get_object(**asked)["ContentType"] == "image/png"
    url = wrong.generate_presigned_url("get_object", Params=get, ExpiresIn=60)
    status, said = http("GET", url)
    assert (status, b"SignatureDoesNotMatch" in said) == (403, True), said
    url = old.generate_presigned_url("get_object", Params=get, ExpiresIn=60)
    assert http("GET", url)[0] == 501
    late = s3.generate_presigned_url("get_object", Params=get, ExpiresIn=60)
    late = late.replace("X-Amz-Expires=60", "X-Amz-Expires=61")
    assert http("GET", late)[0] == 403

    # Payloads that are signed as a whole.
    signed = client_of(endpoint, access_key, secret_key, request_checksum_calculation="when_required")
    signed.meta.events.register("before-sign.s3.PutObject", lambda request, **_: request.context.update(
        {"payload_signing_enabled": True}))
    signed.put_object(Bucket="photos", Key="signed", Body=body)
    assert s3.get_object(Bucket="photos", Key="signed")["Body"].read() == body


def not_offered(s3):
    there = {"Bucket": "photos", "Key": "in/a.jpg"}
    for call, kwargs in (
        (s3.put_object_acl, {**there, "ACL": "public-read"}),
        (s3.get_bucket_policy, {"Bucket": "photos"}),
        (s3.put_object, {**there, "Body": b"", "ServerSideEncryption": "AES256"}),
        (s3.put_object, {**there, "Body": b"", "ACL": "public-read"}),
        (s3.put_object, {**there, "Body": b"", "StorageClass": "GLACIER"}),
        (s3.put_object, {**there, "Body": b"", "Tagging": "a=b"}),
        (s3.get_object, {**there, "VersionId": "1"}),
        (s3.list_object_versions, {"Bucket": "photos"}),
        (s3.put_bucket_versioning, {"Bucket": "photos", "VersioningConfiguration": {"Status": "Enabled"}}),
    ):
        assert refused("NotImplemented", call, **kwargs) == 501
    assert refused("AccessDenied", s3.get_object, **there, ExpectedBucketOwner="123456789012") == 403


def many_at_a_time(s3):
    keys = [f"many/{number:03}" for number in range(200)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: s3.put_object(Bucket="photos", Key=key, Body=key.encode()), keys))
        bodies = list(pool.map(lambda key: s3.get_object(Bucket="photos", Key=key)["Body"].read(), keys))
    assert bodies == [key.encode() for key in keys]


def empty(s3):
    for bucket in s3.list_buckets()["Buckets"]:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket["Name"]):
            keys = [{"Key": entry["Key"]} for entry in page.get("Contents", [])]
            if keys:
                s3.delete_objects(Bucket=bucket["Name"], Delete={"Objects": keys})
        s3.delete_bucket(Bucket=bucket["Name"])
    assert s3.list_buckets()["Buckets"] == []


def main():
    endpoint, access_key, secret_key, folder = sys.argv[1:]
    s3 = client_of(endpoint, access_key, secret_key)
    buckets(s3)
    objects(s3)
    copies(s3)
    listings(s3)
    hostile_keys(s3)
    parts(s3, Path(folder))
    signatures(s3, endpoint, access_key, secret_key)
    not_offered(s3)
    many_at_a_time(s3)
    empty(s3)
    print("all is as its users expect")


if __name__ == "__main__":
    main()
