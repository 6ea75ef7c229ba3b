"""A local S3 for tests of URLs: moto's server in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

BUCKET = "rayline"


@contextlib.contextmanager
def local_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start a server with an empty bucket and yield its URL; Arrow and fsspec find it by environment variables."""
    server = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer(
        port=0, verbose=False
    )
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        for name, value in {
            "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        import boto3

        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=BUCKET)
        yield f"s3://{BUCKET}"
    finally:
        server.stop()
