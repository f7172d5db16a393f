"""The least rights that a pipeline's key needs in its bucket, as an IAM policy: for AWS, MinIO,
SeaweedFS and every server that reads them."""

from __future__ import annotations

from typing import Any


def bucket_policy(
    bucket: str, prefix: str, create_bucket: bool = False, versions: bool = False
) -> dict[str, Any]:
    """The policy for the objects below `prefix`, which ends without a slash.

    `create_bucket`: the bucket does not exist yet, and the first run makes it. `versions`: the
    bucket keeps versions, and `loadsheet gc --versions` removes them.
    """
    on_bucket = ["s3:ListBucket"]
    # DeleteObject is needed for runs, too: a whole table that has not changed is removed again.
    on_objects = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
    if versions:
        on_bucket.append("s3:ListBucketVersions")
        on_objects += ["s3:GetObjectVersion", "s3:DeleteObjectVersion"]
    statements: list[dict[str, Any]] = [
        {
            "Effect": "Allow",
            "Action": on_bucket,
            "Resource": [f"arn:aws:s3:::{bucket}"],
            "Condition": {"StringLike": {"s3:prefix": [f"{prefix}/*"]}},
        },
        {
            "Effect": "Allow",
            "Action": on_objects,
            "Resource": [f"arn:aws:s3:::{bucket}/{prefix}/*"],
        },
    ]
    if create_bucket:
        # Without the condition on a prefix, which a request for a bucket does not have.
        statement = {
            "Effect": "Allow",
            "Action": ["s3:CreateBucket"],
            "Resource": [f"arn:aws:s3:::{bucket}"],
        }
        statements.append(statement)
    return {"Version": "2012-10-17", "Statement": statements}
