"""Why a lake refuses: the codes of AWS, MinIO, SeaweedFS, Ceph, Cloudflare R2 and Google Cloud
Storage, and HTTP statuses.

As in `loadsheet.engine.causes`, what may pass counts as passing.
"""

from __future__ import annotations

from loadsheet.engine.causes import FULL, Cause

NOT_S3 = Cause(
    False,
    "What answers there is no S3 server, or a proxy or a login page is between",
    "correct endpoint_url in the lake's connection",
)
_BUSY = Cause(
    True,
    "The lake is too busy",
    "nothing, unless it keeps happening; then let fewer tasks run at once",
)
_STARTING = Cause(
    True, "The lake cannot serve requests at the moment", "check its disks and servers, and its log"
)
# rclone answers so when its disk is full.
_INTERNAL = Cause(
    True,
    "Something went wrong inside the lake",
    "check the space on its disk, and read its log",
)
_BROKEN = Cause(
    True,
    "The connection broke while the request was sent",
    "nothing, unless it keeps happening; then look at the network",
)
DAMAGED = Cause(
    True,
    "The data arrived damaged",
    "nothing, unless it keeps happening; then look at the network",
)
# MinIO answers so when its disk fills up in the middle of an object.
_INCOMPLETE = Cause(
    True,
    "The lake did not read the object to its end: its disk is full, or the connection broke",
    "check the space on its disk; otherwise look at the network",
)
_LAKE_FULL = Cause(True, "The lake's disk is full", FULL)
_QUOTA = Cause(
    True, "A quota of the lake is used up", "raise the quota, or remove old loads (loadsheet gc)"
)
_UNKNOWN_KEY = Cause(
    False,
    "The lake does not know this access key",
    "correct login and password of the lake's connection",
    is_login=True,
)
_WRONG_SECRET = Cause(
    False,
    "The secret key does not belong to the access key",
    "correct login and password of the lake's connection",
    is_login=True,
)
_EXPIRED = Cause(
    False,
    "The temporary keys have expired",
    "renew extra.aws_session_token with its keys, or use a role",
)
_MISSING_RIGHT = Cause(
    False,
    "The key may not do this",
    "grant it the action named above (docs/lake.md has the least policy). Some servers, rclone for"
    " one, answer a wrong key in this way, too",
)
_NOT_ACCEPTED = Cause(
    False,
    "The lake does not accept this login, or it may not do this",
    "correct login and password of the lake's connection, or grant its key what it lacks",
    is_login=True,
)
_CLOCK = Cause(False, "This machine's clock and the lake's differ", "set the clocks")
_ACCOUNT = Cause(
    False, "The account at the provider is not active", "see the provider's console, then run again"
)
_NO_BUCKET = Cause(
    False,
    "There is no such bucket",
    "run the step create_bucket (in Airflow: look), or correct lake.bucket",
)
_OTHERS_BUCKET = Cause(
    False, "The bucket belongs to another account", "choose another name for lake.bucket"
)
_REGION = Cause(
    False,
    "The bucket is in another region",
    "set extra.region_name of the lake's connection to the bucket's region",
)
_TOO_LONG = Cause(
    False, "The object's name is longer than the lake allows", "choose a shorter lake.prefix"
)
_LOCKED = Cause(
    False,
    "A lock or a retention rule protects the object",
    "wait until it ends, or have it lifted",
)
_ENCRYPTION = Cause(
    False,
    "The lake cannot use the bucket's encryption key",
    "let the connection's key use it, or correct the bucket's encryption",
)
_UNABLE = Cause(False, "The lake cannot do this", "use another S3 server")

UNREACHABLE = Cause(
    True,
    "The lake could not be reached",
    "check that it runs, and host and port in extra.endpoint_url",
)
NO_TLS = Cause(
    False,
    "The lake does not speak TLS at this address",
    "write http:// in extra.endpoint_url, or correct its port",
)
UNTRUSTED = Cause(
    False,
    "The lake's certificate is not trusted here",
    "name the file of its authority in extra.verify or AWS_CA_BUNDLE, or correct the certificate",
)

_CODES = {
    _BUSY: "SlowDown SlowDownRead SlowDownWrite Throttling ThrottlingException ThrottledException"
    " RequestThrottled RequestThrottledException RequestLimitExceeded BandwidthLimitExceeded"
    " TooManyRequests TooManyRequestsException RateLimitExceeded UserRateLimitExceeded ServerBusy"
    " ServiceUnavailable OperationAborted ConditionalRequestConflict RequestTimeout"
    " RequestTimeoutException PriorRequestNotComplete ErrTooManyRequest ErrRequestBytesExceed"
    " 408 425 429",
    _INTERNAL: "InternalError 500",
    _STARTING: "XMinioServerNotInitialized ServerNotInitialized XMinioBackendDown"
    " XMinioReadQuorum XMinioWriteQuorum InsufficientReadQuorum InsufficientWriteQuorum",
    _BROKEN: "ClientDisconnected ClientDisconnect UploadBrokenConnection 499",
    DAMAGED: "BadDigest XAmzContentSHA256Mismatch XAmzContentChecksumMismatch"
    " InvalidDigest CrcMismatch",
    _INCOMPLETE: "IncompleteBody",
    _LAKE_FULL: "XMinioStorageFull StorageFull InsufficientStorage InsufficientCapacity 507",
    _QUOTA: "XMinioAdminBucketQuotaExceeded QuotaExceeded InsufficientQuota"
    " BucketQuotaExceeded StorageQuotaExceeded",
    _UNKNOWN_KEY: "InvalidAccessKeyId XMinioInvalidAccessKeyId InvalidClientTokenId InvalidToken"
    " UnrecognizedClientException Unauthorized",
    _WRONG_SECRET: "SignatureDoesNotMatch XAmzSignatureDoesNotMatch",
    _EXPIRED: "ExpiredToken ExpiredTokenException TokenRefreshRequired",
    _MISSING_RIGHT: "AccessDenied AllAccessDisabled Forbidden InsufficientPermissions"
    " UserProjectAccessDenied",
    _NOT_ACCEPTED: "401 403",
    _CLOCK: "RequestTimeTooSkewed RequestExpired ExpiredRequest",
    _ACCOUNT: "AccountProblem NotSignedUp UserProjectAccountProblem NotEntitled UserSuspended"
    " XMinioAccessKeyDisabled",
    _NO_BUCKET: "NoSuchBucket",
    _OTHERS_BUCKET: "BucketAlreadyExists BucketNameUnavailable",
    _REGION: "AuthorizationHeaderMalformed PermanentRedirect IllegalLocationConstraintException"
    " InvalidRegion InvalidLocationConstraint 301",
    _TOO_LONG: "KeyTooLongError KeyTooLong XMinioInvalidObjectName InvalidObjectName 414",
    _LOCKED: "ObjectLocked ObjectLockedByBucketPolicy ObjectUnderActiveHold RetentionPolicyNotMet"
    " InvalidObjectState",
    _ENCRYPTION: "KMS.DisabledException KMS.NotFoundException KMS.KMSInvalidStateException"
    " CloudKmsBadKey CloudKmsDisabledKey CloudKmsEncryptionKeyNotFound",
    _UNABLE: "NotImplemented 501",
    Cause(
        False, "The lake refused the request", "correct the lake's connection or the spec's lake"
    ): "4",
    Cause(True, "The lake has an internal error", "check that it runs, and read its log"): "5",
    Cause(
        True,
        "The lake's answer is not one of S3",
        "check that extra.endpoint_url is an S3 server, not a proxy",
    ): "",
}


def _by_code() -> dict[str, Cause]:
    table: dict[str, Cause] = {}
    for cause, codes in _CODES.items():
        for code in codes.split() or [""]:
            table[code] = cause
    return table


S3 = _by_code()
"""By S3's own codes, by HTTP statuses, and by the first digit of a status."""


def of_s3(code: str, status: int | None) -> Cause:
    """The cause of an S3 code, else of the HTTP status, else of the status's class."""
    status_text = str(status or "")
    for key in (code, status_text, status_text[:1]):
        if key and key in S3:
            return S3[key]
    return S3[""]
